"""Blocks computed again in backward: the same numbers, the price that is told, and taken where a memory limit asks for it."""

import functools
from dataclasses import replace

import pytest
import torch
from compiling import CPU, SLOW, assert_computes_the_same, captured, compiled, compiled_once
from shared_captures import these_rows
from torch import nn

import autopar
from autopar.costmodel.compute import parameter_seconds
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.plan_file import to_json
from autopar.ops.annotated import annotate
from autopar.partitioner.formulation.priced_problem import build, decide, running_statistics
from autopar.partitioner.formulation.recomputation import key_of, offered, recomputation_of
from autopar.partitioner.problem import NoChoice
from autopar.partitioner.solvers.solve import solve
from autopar.planning.candidate import candidate_of
from autopar.runtime import drawing, simulate
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel


def stack(dropout=0.0, norm=False, layers=3):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
            self.norm = nn.BatchNorm1d(8) if norm else nn.LayerNorm(8)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            return x + self.dropout(self.down(torch.relu(self.up(self.norm(x)))))

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(layers))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x.square().mean()

    return Stack()


@pytest.mark.parametrize(("name", "grid"), [("gpt", "2x2"), ("wide_gpt", "3")])
def test_computed_again_it_is_the_same(name, grid):
    one = compiled_once(name, grid, recompute="always")
    assert one.plan.recomputed == (True,)
    assert " = recompute(" in one.source
    assert_computes_the_same(one, name)


@pytest.mark.parametrize(("how", "grid"), [("always", "2x2"), ("never", "2")])
def test_what_is_told_is_what_was_solved_for(how, grid):
    one = compiled_once("gpt", grid, recompute=how)
    built, told = one.built, one.plan.predicted
    storage = decide(built, one.solution.choice).storage
    sums = sum(
        parameter_seconds(built.graph.values[item.value], item.kind, storage[item.value], "adamw", built.grid, SLOW)[0]
        for item in built.graph.parameters
    )
    assert told.compute + told.communication + told.update + sums == pytest.approx(one.solution.cost)


def test_dropout_draws_the_same_again():
    torch.manual_seed(0)
    model, x = stack(dropout=0.5).double(), torch.randn(6, 8, dtype=torch.float64)
    with these_rows():
        one = autopar.compile(stack(dropout=0.5), (x.float(),), grid="2", machine=SLOW, recompute="always")
    assert one.plan.recomputed == (True,)
    with drawing(7, 1), ProgramRandom():
        wanted = torch.autograd.grad(model(x), list(model.parameters()))
    description = parse_description(to_json(one.plan), "plan.json")

    def rank():
        names = {"__name__": "program"}
        exec(compile(one.source, "program.py", "exec"), names)
        parallel = Parallel(names["PROGRAM"], description, list(module_values(model)), dtype=torch.float64, seed=7)
        parallel(x).backward()
        return parallel.full_gradients()

    for found in simulate(2, rank):
        for (key, _), value in zip(model.named_parameters(), wanted, strict=True):
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12)


def test_blocks_that_change_buffers_are_not_computed_again():
    with these_rows():
        one = autopar.compile(stack(norm=True), (torch.randn(6, 8),), grid="2", machine=SLOW, recompute="always")
    assert one.plan.recomputed == (False,)
    assert "recompute(" not in one.source


def test_a_limit_that_keeping_breaks_makes_it_compute_again():
    with pytest.raises(InfeasiblePlan):
        compiled("gpt", "2", recompute="never", memory=24_000)
    one = compiled_once("gpt", "2", memory=24_000)
    assert one.plan.recomputed == (True,)
    assert one.plan.predicted.activations_bytes < compiled_once("gpt", "2").plan.predicted.activations_bytes / 2
    assert_computes_the_same(one, "gpt")


@functools.cache
def frontier():
    """(cost, peak) of what the solver's limits lead to, with and without computing again."""
    graph, grid = captured("gpt").graph, GridShape.parse("2")
    found = []
    for recomputed in ((), tuple(map(key_of, offered(graph, _repeats(graph, grid), running_statistics(graph))))):
        built = _built(graph, grid, None, recomputed)
        for kept in range(15_000, 45_000, 5000):
            try:
                one = candidate_of(built, solve(replace(built.problem, limit=float(kept))), "adamw")
            except NoChoice:
                continue
            found.append((one.solution.cost, one.held.peak))
    return found


@pytest.mark.parametrize("memory", [24_000, pytest.param(18_000, marks=pytest.mark.zoo)])
def test_the_cheapest_of_all_sets(memory):
    """Of both sets and all limits that the solver could be given, none leads to a cheaper plan whose peak fits."""
    costs = [cost for cost, peak in frontier() if peak <= memory]
    if not costs:
        with pytest.raises(InfeasiblePlan, match="the least peak found"):
            compiled("gpt", "2", memory=memory)
        return
    one = compiled_once("gpt", "2", memory=memory)
    assert one.plan.predicted.bytes <= memory
    assert one.solution.cost <= min(costs) * 1.002
    assert one.solution.bound <= one.solution.cost


def _built(graph, grid, memory, recomputed=()):
    given = {"limit": memory, "optimizer": "adamw", "gathered": True}
    return build(annotate(graph), grid, SLOW, **given, recomputed=recomputed)


def _repeats(graph, grid):
    return _built(graph, grid, None).repeats


def test_of_limits_that_bind_a_smaller_one_is_never_cheaper():
    plans = [compiled_once("gpt", "2", memory=memory) for memory in (27_000, 24_000)]
    costs = [one.solution.cost for one in plans]
    assert costs == sorted(costs)
    assert all(one.plan.predicted.bytes <= one.plan.options.memory for one in plans)


def test_what_is_kept():
    graph = captured("gpt").graph
    repeats = _repeats(graph, GridShape.parse("2"))
    record = recomputation_of(repeats, [key_of(repeats[0])])
    assert len(record.calls) == 3 * len(repeats[0].nodes[0])
    assert len(record.later) == 2 * len(repeats[0].nodes[0])
    assert len(record.handed) == 3
    assert recomputation_of(repeats, []).calls == frozenset()


def test_an_unknown_word_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'never'"):
        compiled("mlp", "2", machine=CPU, recompute="nevr")


@pytest.mark.parametrize("grid", ["2", "2x2"])
@pytest.mark.parametrize("name", ["gpt", "wide_gpt"])
def test_what_it_costs_that_blocks_share_a_choice_is_told(name, grid):
    one = compiled_once(name, grid)
    given = {"limit": None, "optimizer": "adamw", "gathered": False}
    apart = build(one.subject.annotated, GridShape.parse(grid), SLOW, **given, untied=True)
    assert len(apart.keys) > 2 * len(one.built.keys)
    least = solve(apart.problem).cost
    assert one.plan.solver.tied_loss == pytest.approx(1 - least / one.solution.cost, abs=1e-9)
    assert 0 <= one.plan.solver.tied_loss <= 0.01


def test_it_is_not_told_where_it_was_not_computed():
    assert compiled_once("mlp", "2").plan.solver.tied_loss == 0
    assert compiled_once("gpt", "2x2", recompute="always").plan.solver.tied_loss is None
    assert compiled_once("gpt", "2", memory=24_000).plan.solver.tied_loss is None
