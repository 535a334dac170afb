"""From a graph to the abstract problem: its optimum by every solver, memory limits, pins, and blocks that share a choice."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from compiling import CPU, QUICK, SLOW, assert_computes_the_same, captured, compiled, compiled_once
from random_problems import told

from autopar.costmodel.local_shapes import local_bytes
from autopar.costmodel.memory import parameter_bytes
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.graph import ITEMSIZE
from autopar.ir.grid import GridShape
from autopar.ir.layout import Partial, Replicate, Shard
from autopar.ops.annotated import annotate
from autopar.partitioner.formulation import repeated_blocks
from autopar.partitioner.formulation.constraints import Constraints
from autopar.partitioner.formulation.priced_problem import build, decide
from autopar.partitioner.problem import Choices, Edge, NoChoice, Problem, evaluate, fits
from autopar.partitioner.solvers.exhaustive import solve_exhaustively
from autopar.partitioner.solvers.solve import solve

GRAPHS = ("mlp", "convpool", "heads")
GRIDS = ("2", "3", "2x2")


def built(name, grid, machine=SLOW, limit=None, gathered=False, pins=None):
    constraints = Constraints(pins=pins or {})
    annotated = annotate(captured(name).graph)
    return build(
        annotated, GridShape.parse(grid), machine, constraints, limit=limit, optimizer="adamw", gathered=gathered
    )


def restricted(problem, seed, most=60_000):
    """The problem with some strategies of every node only, few enough to try all combinations; an optimum is among them."""
    draw = np.random.default_rng(seed)
    best = solve(problem).choice
    kept = [np.array([s]) for s in best]
    sizes = np.ones(len(best))
    for i in draw.permutation(np.repeat(np.arange(len(best)), 4)):
        left = np.setdiff1d(np.arange(problem.nodes[i].costs.size), kept[i])
        if left.size and np.prod(sizes) / sizes[i] * (sizes[i] + 1) <= most:
            kept[i] = np.append(kept[i], draw.choice(left))
            sizes[i] += 1
    nodes = tuple(
        Choices(node.name, node.costs[keep], node.memory[keep], node.start, node.stop)
        for node, keep in zip(problem.nodes, kept, strict=True)
    )
    edges = tuple(Edge(e.a, e.b, e.costs[np.ix_(kept[e.a], kept[e.b])]) for e in problem.edges)
    return Problem(nodes, edges, problem.limit)


def binding(problem):
    """The same with a limit that the cheapest choice does not meet; None where there is none."""
    free = solve_exhaustively(problem)
    with pytest.raises(NoChoice) as caught:
        solve_exhaustively(dataclasses.replace(problem, limit=0.0))
    least = caught.value.least_peak
    return dataclasses.replace(problem, limit=(least + free.peak) / 2) if least < free.peak * (1 - 1e-9) else None


def assert_all_agree(problem):
    exact = solve_exhaustively(problem)
    others = [solve(problem, method) for method in ("auto", "ilp")]
    for found in others:
        assert found.cost == pytest.approx(exact.cost, rel=1e-9)
        assert found.bound == pytest.approx(exact.cost, rel=1e-6)
    near = solve(problem, "search")
    assert near.bound <= exact.cost * (1 + 1e-9) <= near.cost * (1 + 2e-9)
    for found in (exact, near, *others):
        assert evaluate(problem, found.choice) == pytest.approx((found.cost, found.peak))
        assert fits(found.peak, problem.limit)
    return exact


def test_every_solver_finds_the_cost_of_exhaustive_search():
    """Without a limit, and under one that binds: most do, else this would prove less than it says."""
    tried = bound = 0
    for (name, grid), seed in zip(itertools.product(GRAPHS, GRIDS), itertools.cycle(range(4))):
        with told(f"{name} on grid {grid}, seed {seed}"):
            problem = restricted(built(name, grid, gathered=seed == 2).problem, seed, most=30_000)
            free, tight = assert_all_agree(problem), binding(problem)
            assert tight is None or assert_all_agree(tight).cost >= free.cost
            tried, bound = tried + 1, bound + (tight is not None)
    assert bound > tried // 2


@pytest.mark.parametrize("grid", ["2", "3"])
def test_the_whole_problem_of_two_linears(grid):
    assert_all_agree(built("mlp", grid).problem)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", [*GRAPHS, "conv", "gpt"])
def test_elimination_and_the_integer_program_agree_on_whole_problems(name, grid):
    problem = built(name, grid).problem
    exact = solve(problem)
    assert exact.method == "elimination"
    assert solve(problem, "ilp").cost == pytest.approx(exact.cost, rel=1e-9)
    near = solve(problem, "search")
    assert near.bound <= exact.cost * (1 + 1e-9)
    assert exact.cost <= near.cost * (1 + 1e-9)


@pytest.mark.parametrize(("name", "grid"), [("mlp", "2x2"), ("conv", "2"), ("gpt", "2")])
def test_less_memory_costs_more_time(name, grid):
    """The cheapest choice under falling limits, down to the least that any choice needs."""
    one = built(name, grid)
    free = solve(one.problem)
    with pytest.raises(NoChoice) as caught:
        solve(dataclasses.replace(one.problem, limit=1.0))
    least = caught.value.least_peak
    assert least < free.peak
    before = 0.0
    for limit in np.linspace(free.peak, least, 3):
        problem = dataclasses.replace(one.problem, limit=float(limit))
        found = solve(problem)
        assert fits(found.peak, problem.limit)
        assert found.cost >= before * (1 - 1e-9)
        assert solve(problem, "ilp").cost == pytest.approx(found.cost, rel=1e-6)
        before = found.cost
    with pytest.raises(NoChoice):
        solve(dataclasses.replace(one.problem, limit=least * 0.999))


def amounts(message):
    """Every amount of memory in a message, in bytes."""
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return [float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?) ?((?:[KMG]i)?B)\b", message)]


@pytest.mark.parametrize(("name", "grid"), [("mlp", "2"), ("conv", "2x2")])
def test_a_limit_that_cannot_be_met_says_what_would_do(name, grid):
    with pytest.raises(InfeasiblePlan) as caught:
        compiled(name, grid, memory=100)
    message = str(caught.value)
    limit, least, missing = amounts(message)[:3]
    assert limit == 100
    assert missing == pytest.approx(least - limit, abs=0.01 * least)
    advised = re.search(r"raise --memory to (\S+?),", message).group(1)
    assert compiled(name, grid, memory=advised).plan.predicted.bytes <= amounts(advised)[0]
    with pytest.raises(InfeasiblePlan):
        compiled(name, grid, memory=least * 0.98)


@pytest.mark.parametrize(("name", "grid"), [("mlp", "2"), ("conv", "2x2"), ("gpt", "2x2")])
def test_the_planner_s_peak_is_all_that_is_kept(name, grid):
    one = compiled_once(name, grid)
    storage = decide(one.built, one.solution.choice).storage
    values = [one.graph.values[item.value] for item in one.graph.inputs]
    inputs = sum(
        local_bytes(one.shape, ITEMSIZE[one.dtype], storage[one.name], GridShape.parse(grid)) for one in values
    )
    stored = sum(
        parameter_bytes(one.graph.values[item.value], item.kind, storage[item.value], "adamw", GridShape.parse(grid))
        for item in one.graph.parameters
    )
    assert inputs + stored + sum(node.saved_bytes for node in one.plan.nodes) == one.solution.peak


def test_parameters_are_gathered_for_use_only_where_nothing_else_fits():
    """Whole parameters where there is room; with less, in parts that are gathered (ZeRO), if batch is all that is split."""
    pins = ("fc*: b0@axis0", "relu: d0@axis0", "loss: d0@axis0")
    whole = compiled_once("mlp", "2", pin=pins)
    assert {one.primitive for one in whole.plan.conversions} == {"all_sum"}
    limit = whole.plan.predicted.bytes * 0.9
    parts = compiled("mlp", "2", pin=pins, memory=limit)
    gathered = {one.value for one in parts.plan.conversions if "gather" in one.primitive}
    assert gathered
    assert gathered <= {"fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"}
    assert parts.plan.predicted.bytes <= limit
    assert parts.solution.cost > whole.solution.cost


def test_what_is_gathered_is_kept_until_backward():
    """In parts over two ranks a parameter, its gradient and two moments are half as large; what is gathered of it is whole."""
    data, zero = (compiled_once("wide_mlp", "2", plan=plan) for plan in ("data", "zero"))
    count = sum(4 * value.numel for value in (zero.graph.values[item.value] for item in zero.graph.parameters))
    assert {one.layouts for one in zero.plan.parameters} == {("shard 0",)}
    assert zero.solution.peak == data.solution.peak - 4 * count // 2 + count


@pytest.mark.parametrize(("grid", "machine"), [("2", CPU), ("2x2", QUICK), ("2x2", SLOW)])
@pytest.mark.parametrize("name", ["gpt", "wide_gpt"])
def test_blocks_that_share_a_choice_cost_at_most_one_percent_more(name, machine, grid, monkeypatch):
    tied = built(name, grid, machine)
    assert [len(repeat.nodes) for repeat in tied.repeats] == [3]
    monkeypatch.setattr(repeated_blocks, "find", lambda graph: ())
    free = built(name, grid, machine)
    assert len(free.keys) > len(tied.keys)
    together, apart = solve(tied.problem), solve(free.problem)
    assert together.gap == apart.gap == 0
    assert apart.cost * (1 - 1e-9) <= together.cost <= apart.cost * 1.01


def test_a_decision_names_everything():
    one = built("gpt", "2x2")
    decision = decide(one, solve(one.problem).choice)
    graph = one.graph
    assert decision.strategies.keys() == {node.name for node in graph.nodes}
    assert decision.storage.keys() == {item.value for item in (*graph.parameters, *graph.inputs)}
    for repeat in one.repeats:
        for nodes in repeat.nodes[1:]:
            for node, first in zip(nodes, repeat.nodes[0], strict=True):
                assert decision.strategies[node.name] == decision.strategies[first.name]
                for name, first_name in zip(node.inputs, first.inputs, strict=True):
                    assert decision.storage.get(name) == decision.storage.get(first_name)
    assert not [stored for storage in decision.storage.values() for stored in storage if isinstance(stored, Partial)]


def test_the_loss_is_paid_for_until_it_is_whole():
    """Its variable costs more for results that are addends or shards: the conversion to Replicate is part of it."""
    one = built("mlp", "2")
    at = one.keys.index("node:loss")
    costs = one.problem.nodes[at].costs
    results = [strategy[0].results[0] for strategy in one.options["node:loss"]]
    whole = costs[results.index(Replicate())]
    assert {type(result) for result in results} == {Replicate, Partial}
    cheaper_compute = [cost for cost, result in zip(costs, results, strict=True) if isinstance(result, Partial)]
    assert min(cheaper_compute) != whole


def test_running_statistics_are_never_converted():
    for grid in GRIDS:
        one = compiled_once("conv", grid)
        names = {item.value for item in one.graph.parameters if "running" in item.name}
        assert names
        assert not names & {conversion.value for conversion in one.plan.conversions}


PINS = [
    ("mlp", "2", ("fc1: k@axis0",)),
    ("mlp", "2x2", ("fc*: b0@axis1", "fc1: n@axis0")),
    ("conv", "2", ("conv*: h@axis0", "head: replicate@axis0")),
    ("conv", "2x2", ("*conv2: w@axis1", "pool: n@axis0")),
    ("gpt", "2", ("blocks.*.down: k@axis0", "blocks.*.up: n@axis0")),
]


@pytest.mark.parametrize(("name", "grid", "pins"), PINS)
def test_pins_are_respected(name, grid, pins):
    free, one = compiled_once(name, grid), compiled_once(name, grid, pin=pins)
    axes = GridShape.parse(grid).names
    met = 0
    for pin in pins:
        pattern, choice, axis = re.fullmatch(r"(\S+): (\w+)@(\w+)", pin).groups()
        for node in one.plan.nodes:
            if re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), node.module):
                at = node.choices[axes.index(axis)]
                assert choice in (at.letter, at.mode)
                met += 1
    assert met >= len(pins)
    assert one.solution.cost >= free.solution.cost * (1 - 1e-9)
    assert one.plan.options.pins == pins


def test_a_pin_on_one_block_leaves_the_others_free():
    one = compiled("gpt", "2", pin=("blocks.1.up: replicate@axis0",))
    modes = {node.module: node.choices[0].mode for node in one.plan.nodes if node.target == "aten.linear.default"}
    assert [modes[f"blocks.{i}.up"] for i in range(3)] == ["split", "replicate", "split"]
    assert one.plan.repeats == ()
    assert_computes_the_same(one, "gpt")


@pytest.mark.parametrize("solver", ["ilp", "search", "exhaustive"])
def test_every_solver_gives_a_plan_of_the_same_cost(solver):
    one = compiled("mlp", "2", solver=solver)
    assert one.plan.solver.cost == pytest.approx(compiled_once("mlp", "2").plan.solver.cost, rel=1e-9)
    assert one.plan.options.solver == solver


@pytest.mark.parametrize(
    ("pins", "says"),
    [
        (("fc1: q@axis0",), "letter"),
        (("nothing: n@axis0",), "matches no"),
        (("fc1: n@axis1",), "axis"),
        (("fc1 n axis0",), "pin"),
        (("fc1: n@axis0", "fc*: k@axis0"), "contradict"),
    ],
)
def test_pins_that_say_nothing_are_refused(pins, says):
    with pytest.raises(ConfigError, match=says):
        compiled("mlp", "2", pin=pins)


def test_an_axis_of_one_rank_changes_nothing():
    """Grid 2x1 costs what grid 2 costs, and nothing is split or converted over the second axis."""
    one, two = compiled_once("gpt", "2"), compiled_once("gpt", "2x1")
    assert two.solution.cost == pytest.approx(one.solution.cost, rel=1e-9)
    assert {node.choices[1].mode for node in two.plan.nodes} == {"replicate"}
    assert {conversion.axis for conversion in two.plan.conversions} <= {"axis0"}


def test_a_grid_of_one_rank_costs_what_one_rank_costs():
    one = compiled("conv", "1")
    assert one.plan.predicted.seconds == pytest.approx(one.plan.single)
    assert not one.plan.conversions


def test_a_parameter_lies_in_parts_only_where_it_is_used_in_parts():
    """Unless parameters may be gathered: then every home along the first dim is an option as well."""
    plain, gathered = built("mlp", "2"), built("mlp", "2", gathered=True)
    key = "storage:fc1_bias"
    assert (Shard(0),) in gathered.options[key]
    assert set(plain.options[key]) <= set(gathered.options[key])
    edge = next(e for e in plain.problem.edges if {plain.keys[e.a], plain.keys[e.b]} == {key, "node:fc1"})
    costs = edge.costs if plain.keys[edge.a] == key else edge.costs.T
    split = plain.options[key].index((Shard(0),))
    wants = [strategy[0].operands[2] for strategy in plain.options["node:fc1"]]
    assert [bool(np.isfinite(costs[split, i])) for i in range(len(wants))] == [isinstance(one, Shard) for one in wants]
