"""Grids of many axes: what is planned by way of merged axes is legal, exact in what it prices, near the best, and says so."""

import dataclasses
import math

import pytest
from compiling import CPU, QUICK, SLOW, assert_computes_the_same, captured, compiled

from autopar.capture.passes.rewriting import with_nodes
from autopar.errors import ConfigError
from autopar.ir.graph import Node, Ref
from autopar.ir.grid import GridShape
from autopar.ops.annotated import annotate
from autopar.partitioner.formulation import merged_axes
from autopar.partitioner.formulation.constraints import Constraints
from autopar.partitioner.formulation.mixed_choices import MOST, mixtures
from autopar.partitioner.formulation.priced_problem import build
from autopar.partitioner.formulation.strategies import strategies_of
from autopar.planning import axis_merging
from autopar.planning.request import Request


@pytest.mark.parametrize(("name", "machine"), [("mlp", QUICK), ("mlp", SLOW)])
def test_the_plan_is_near_the_best_and_never_said_to_be_it(name, machine, monkeypatch):
    best = compiled(name, "2x2x2", machine=machine).plan
    monkeypatch.setattr(merged_axes, "AXES", 2)
    found = compiled(name, "2x2x2", machine=machine).plan
    assert best.solver.cost <= found.solver.cost * (1 + 1e-9)
    assert found.solver.cost <= 1.1 * best.solver.cost
    assert "strategies left out" in found.solver.method
    assert found.solver.gap == 1.0
    assert "left out" not in best.solver.method


def test_mixtures_compute_what_the_model_computes(monkeypatch):
    monkeypatch.setattr(merged_axes, "AXES", 2)
    made = compiled("mlp", "2x2x2", machine=SLOW)
    assert any(len({str(one) for one in node.choices}) > 1 for node in made.plan.nodes)
    assert_computes_the_same(made, "mlp")


def test_a_model_of_too_many_conversions_is_planned_on_fewer_axes_too(monkeypatch):
    monkeypatch.setattr(merged_axes, "ENTRIES", 10)
    assert "left out" in compiled("mlp", "2x2x2").plan.solver.method


def test_what_a_call_may_do_is_bounded_and_holds_what_merged_plans_do():
    annotated, grid = annotate(captured("mlp").graph), GridShape.parse("2x2x2x2")
    found = strategies_of(annotated, grid, {}, {})
    again = strategies_of(annotated, grid, {}, {name: item.strategies[-8:] for name, item in found.items()})
    for name, item in again.items():
        assert len(item.strategies) <= MOST
        assert set(found[name].strategies[-8:]) <= set(item.strategies)


def test_without_bases_every_choice_of_every_axis_is_there():
    axes = [["a", "b"], ["c", "d", "e"]]
    of = {
        letter: dataclasses.make_dataclass("One", ["mode", "letter"], frozen=True)("split", letter)
        for letter in "abcde"
    }
    per_axis = [[of[letter] for letter in axis] for axis in axes]
    found = list(mixtures((), per_axis))
    for axis in range(2):
        assert {one[axis] for one in found} == set(per_axis[axis])


def test_a_fixed_plan_splits_the_batch_over_every_axis(monkeypatch):
    monkeypatch.setattr(merged_axes, "AXES", 1)
    made = compiled("mlp", "2x3", plan="data")
    linear = [node for node in made.plan.nodes if "linear" in node.target]
    assert {choice.letter for node in linear for choice in node.choices} == {"b0"}
    assert "left out" in made.plan.solver.method


def test_pins_hold_where_axes_are_merged(monkeypatch):
    monkeypatch.setattr(merged_axes, "AXES", 2)
    made = compiled("mlp", "2x2x2", pin=("fc1: n@axis2", "fc1: k@axis1"), ban=("*: b0@axis0",))
    first = next(node for node in made.plan.nodes if "linear" in node.target)
    assert [choice.letter for choice in first.choices[1:]] == ["k", "n"]
    assert all(node.choices[0].letter != "b0" for node in made.plan.nodes)


def test_the_time_limit_counts_from_the_start(monkeypatch):
    """What pricing takes is no longer there for the solver."""
    from autopar.planning import planner

    made, limits = compiled("mlp", "2"), []
    plain = planner.solve

    def solve(*words, time_limit, **more):
        limits.append(time_limit)
        return plain(*words, time_limit=time_limit, **more)

    monkeypatch.setattr(planner, "solve", solve)
    now = [0.0]
    monkeypatch.setattr(planner.time, "perf_counter", lambda: now[0])
    build = planner.build

    def slowly(*words, **more):
        now[0] += 25.0
        return build(*words, **more)

    opened = planner.opened

    def opened_slowly(*words):
        now[0] += 5.0
        return opened(*words)

    monkeypatch.setattr(planner, "build", slowly)
    monkeypatch.setattr(planner, "opened", opened_slowly)
    made.replan(time_limit=60.0)
    assert limits[0] == pytest.approx(30.0)
    limits.clear()
    made.replan(time_limit=10.0)
    assert limits[0] == pytest.approx(2.5)  # a quarter in any case


@pytest.mark.parametrize("layers", [2, 8])
def test_calls_that_are_alike_are_priced_once_however_many_there_are(layers, monkeypatch):
    """Layers that are no repeated block, so that each has a variable of its own."""
    from autopar.partitioner.formulation import problem_builder

    priced = []
    plain = problem_builder.ProblemBuilder.call_seconds
    monkeypatch.setattr(
        problem_builder.ProblemBuilder,
        "call_seconds",
        lambda self, item, one: priced.append(item) or plain(self, item, one),
    )
    graph = captured("mlp").graph
    many = chain(graph, layers)
    made = build(annotate(many), GridShape.parse("2"), CPU, limit=None, optimizer="sgd", gathered=False)
    assert len(made.keys) > layers
    assert len({item.node.name for item in priced}) <= 5


def chain(graph, layers):
    """Tanh after tanh on one of the graph's values, then its mean."""
    first = graph.nodes[0]
    value = graph.values[first.outputs[0]]
    values, nodes, name = dict(graph.values), [first], value.name
    for i in range(layers):
        made = f"t{i}"
        nodes.append(Node(made, "aten.tanh.default", (Ref(name),), (), (made,)))
        values[made], name = dataclasses.replace(value, name=made), made
    nodes.append(Node("m", "aten.mean.default", (Ref(name),), (), ("m",)))
    values["m"] = dataclasses.replace(value, name="m", shape=())
    return with_nodes(dataclasses.replace(graph, loss="m", updates=(), outputs=()), nodes, values.values())


def test_merged_axes_stand_for_all_of_theirs():
    """What a call does on a merged axis it does on each of them; pins of one are pins of all, and end where two differ."""
    grid = GridShape.parse("2x2x2x2")
    (halves,) = [one for one in merged_axes.merges(grid) if one.groups == ((0, 1), (2, 3))]
    item = next(iter(strategies_of(annotate(captured("mlp").graph), halves.grid, {}, {}).values()))
    assert len(item.strategies) > 4
    for strategy in item.strategies:
        assert halves.spread(strategy, item.call, 4) == tuple(choice for choice in strategy for _ in range(2))
    assert halves.constraints(Constraints({"fc": {0: "n", 3: "k"}})).pins == {"fc": {0: "n", 1: "k"}}
    with pytest.raises(ConfigError):
        halves.constraints(Constraints({"fc": {2: "n", 3: "k"}}))


def test_no_merged_grid_is_begun_after_the_time(monkeypatch):
    request = Request(
        annotate(captured("mlp").graph), GridShape.parse("2x2x2x2"), CPU, compiled("mlp", "2").plan.options
    )
    planned = []
    plan = lambda *given: planned.append(given) or [(-len(planned), {"at": len(planned)})]  # noqa: E731
    monkeypatch.setattr(axis_merging, "_plans", plan)
    for until, count in ((-math.inf, 1), (math.inf, 6)):
        planned.clear()
        found = axis_merging._merged_plans(request, Constraints(), until)
        assert len(planned) == count == found[1]
        assert [one["at"] for one in found[0]] == list(range(count, 0, -1))
