"""Plans for ranks that differ in speed and memory: their cuts, what each rank takes and holds, and what they compute."""

import dataclasses
import itertools

import pytest
import torch
from compiling import CPU, SLOW, assert_computes_the_same, compiled_once, session_maker
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.analysis.scaling import Noise
from autopar.analysis.split_summary import cuts_sentence
from autopar.cli.rank_output import show_ranks
from autopar.cli.simulate_output import say_replanned
from autopar.costmodel.local_shapes import local_part, local_shape
from autopar.errors import InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.layout import cut_bounds, parse_layout
from autopar.ir.machine import RankClass
from autopar.planning.candidate import candidate_of
from autopar.planning.request import Request
from autopar.planning.unequal.cut_search import recut
from autopar.runtime import simulate


def machine_of(speeds, memories=(), base=SLOW):
    """A machine whose ranks have these speeds, and memories where they are given."""
    every = itertools.zip_longest(speeds, memories)
    return dataclasses.replace(
        base,
        ranks=tuple(RankClass(ranks=str(i), speed=speed, memory_bytes=room) for i, (speed, room) in enumerate(every)),
    )


PLANS = {
    "mlp": ("mlp", "2", (1.0, 0.5)),
    "does not divide": ("big_image", "3", (1.0, 0.5, 0.25)),
    "no row": ("mlp", "2", (1.0, 0.01)),
    "first is slow": ("wide_mlp", "2x2", (0.5, 1.0, 1.0, 1.0)),
}
LARGE = {"attention on 2x2": ("wide_gpt", "data=2,model=2", (1.0, 1.0, 1.0, 0.5))}


def planned(name, grid, speeds):
    return compiled_once(name, grid, machine_of(speeds))


@pytest.mark.parametrize("case", [*PLANS, *(pytest.param(case, marks=pytest.mark.zoo) for case in LARGE)])
def test_a_plan_for_unequal_ranks_computes_what_the_model_computes(case):
    name, grid, speeds = (PLANS | LARGE)[case]
    one = planned(name, grid, speeds)
    assert one.plan.cuts
    assert_computes_the_same(one, name)


@pytest.mark.parametrize("case", PLANS)
def test_the_step_is_as_long_as_the_simulated_ranks_take(case):
    plan = planned(*PLANS[case]).plan
    ranks = Noise({}).run(plan)
    assert ranks.seconds == pytest.approx(plan.predicted.seconds, rel=1e-9)
    for one, seconds in zip(plan.ranks, ranks.compute, strict=True):
        assert one.compute + one.update == pytest.approx(float(seconds), rel=1e-5)
    total = sum(one.speed for one in plan.ranks)
    alike = compiled_once(PLANS[case][0], PLANS[case][1], SLOW).plan
    assert plan.predicted.seconds < alike.predicted.seconds / min(one.speed for one in plan.ranks)
    assert plan.predicted.seconds > alike.single / total * 0.9


@pytest.mark.parametrize("case", PLANS)
def test_priced_shares_are_those_of_the_ranks(case):
    one = planned(*PLANS[case])
    stored = {item.name: (item.shape, tuple(map(parse_layout, item.layouts))) for item in one.plan.parameters}
    session = session_maker(one, made(PLANS[case][0]))

    def rank():
        parallel = session()
        return {name: tuple(parallel.state_dict()[name].shape) for name in stored if name in parallel.state_dict()}

    grid = one.plan.shape
    for number, held in enumerate(simulate(grid.size, rank)):
        assert held
        for name, shape in held.items():
            assert local_shape(*stored[name], grid.seen_from(number)) == shape


def made(name):
    from compiling import made as model_and_inputs

    return model_and_inputs(name)[0].double()


def test_a_rank_without_a_row_holds_none():
    plan = planned(*PLANS["no row"]).plan
    assert dict(plan.cuts) == {"axis0": (0.0, 1.0, 1.0)}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 50), st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(1, 3))
def test_parts_of_a_cut_grid_are_parts_of_its_bounds(extent, inner, unit):
    grid = GridShape.parse("2x3").cut({"axis1": (0.0, *sorted(inner), 1.0)})
    cuts = [(1, unit, 0), (1, unit, 1)]
    total = 0
    for rank in range(6):
        i, j = divmod(rank, 3)
        outer = cut_bounds(extent, 2)
        bounds = cut_bounds(outer[i + 1] - outer[i], 3, grid.cuts_of(1))
        part = local_part(extent * unit, cuts, grid.seen_from(rank))
        assert part == (bounds[j + 1] - bounds[j]) * unit <= local_part(extent * unit, cuts, grid) + unit
        total += part
    assert total == extent * unit


def test_the_cuts_are_as_good_as_the_best_of_all():
    """Every division of the rows that the plan cuts, looked at as a whole."""
    one = planned("mlp", "2", (1.0, 0.4))
    request = Request(one.subject.annotated, GridShape.parse("2"), one.plan.machine, one.plan.options)
    candidate = candidate_of(one.built, one.solution, "adamw")
    found = recut(candidate, request)[0]
    steps = [(0.0, cut / 24, 1.0) for cut in range(25)]
    grids = [GridShape.parse("2").cut({"axis0": cuts}) for cuts in steps]
    every = [candidate_of(dataclasses.replace(one.built, grid=grid), one.solution, "adamw").seconds for grid in grids]
    assert found.seconds <= min(every) * 1.02


def test_a_rank_with_less_memory_holds_no_more_than_it_may():
    room = int(compiled_once("wide_mlp", "2", SLOW).plan.predicted.bytes * 0.7)
    tight = compiled_once("wide_mlp", "2", machine_of((1.0, 1.0), (None, room))).plan
    assert tight.ranks[1].peak <= room == tight.ranks[1].memory
    assert tight.ranks[0].memory == CPU.memory_bytes
    with pytest.raises(InfeasiblePlan, match=r"memory limit 1000.00 B of rank 1(.|\n)*raise memory_bytes of its"):
        compiled_once("wide_mlp", "2", machine_of((1.0, 1.0), (None, 1000)))


def test_a_limit_that_is_asked_for_holds_for_all_ranks():
    machine = machine_of((1.0, 0.5, 1.0), (None, 10**6, 10**12))
    options = dataclasses.replace(planned(*PLANS["mlp"]).plan.options, memory=1e9)
    request = Request(planned(*PLANS["mlp"]).subject.annotated, GridShape.parse("3"), machine, options)
    assert request.memories == (1e9, 1e6, 1e9)
    free = dataclasses.replace(request, options=dataclasses.replace(options, memory=None))
    assert (free.memories, free.limit) == ((float(CPU.memory_bytes), 1e6, 1e12), 1e12)


def test_ranks_that_are_alike_share_a_row(capsys):
    show_ranks(planned(*PLANS["first is slow"]).plan)
    shown = capsys.readouterr().out
    assert "ranks that are not alike" in shown
    assert cuts_sentence(planned(*PLANS["mlp"]).plan) == "axis0 at 2 / 3"
    say_replanned(planned(*PLANS["mlp"]).plan, 0.002, 0.001)
    assert "1 ms, where the plan as compiled takes 2 ms; axis0 at 2 / 3" in " ".join(capsys.readouterr().out.split())


def test_other_batches_have_the_same_cuts():
    torch.manual_seed(0)
    one = planned("mlp", "2", (1.0, 0.5))
    assert one.for_rows(9).plan.cuts == one.plan.cuts
