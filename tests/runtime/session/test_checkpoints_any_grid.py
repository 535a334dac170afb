"""Parts that are written on any grid are read on any other: blocks, units, uneven and empty parts, replicas, positions."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.ir.layout import Copied, Replicate, Shard
from autopar.runtime import Grid, simulate
from autopar.runtime.checkpoint import load
from autopar.runtime.checkpoint.contents import HeldState
from autopar.runtime.checkpoint.index import read_index
from autopar.runtime.checkpoint.save import JobState, save
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.shards import take_part
from autopar.runtime.program.plan_reader import TensorSpec

NAMES = ("a", "b", "c")


@st.composite
def dims(draw):
    """Shapes as products of factors, of which some have no rows."""
    factors = st.lists(st.integers(0, 4), min_size=1, max_size=3)
    return [draw(st.lists(factors, min_size=0, max_size=2)) for _ in NAMES]


@st.composite
def grids(draw, shapes):
    """A grid with cuts, the factor of every tensor that each axis cuts, and the positions that hold every tensor."""
    outer = draw(st.sampled_from(["", "queue:2x", "stage:2x"]))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).filter(lambda sizes: math.prod(sizes) <= 6))
    fractions = st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted)
    moved = [draw(st.none() | fractions) for _ in sizes]
    chosen = []
    for shape in shapes:
        factors = [(dim, i) for dim, extents in enumerate(shape) for i in range(len(extents))]
        chosen.append([draw(st.none() | st.sampled_from(factors)) if factors else None for _ in sizes])
    positions = [draw(st.sampled_from([(0,), (1,), (0, 1)])) for _ in shapes]
    return outer, sizes, moved, chosen, positions


def ranks_of(grid):
    return math.prod(grid[1]) * (2 if grid[0] else 1)


def made(shapes, grid):
    """The values of all tensors, whole, and a state that holds this rank's parts of them."""
    outer, sizes, moved, chosen, positions = grid
    live = Grid(outer + "x".join(map(str, sizes)))
    for axis, cuts in zip(live.axes, moved, strict=True):
        if cuts is not None:
            axis.move([0, *(at / 8 for at in cuts[: axis.size - 1]), 1])
    holders = Holders(live.place, dict(zip(NAMES, positions, strict=True))) if live.place else Holders()
    layouts, wholes = {}, {}
    for number, (name, shape) in enumerate(zip(NAMES, shapes, strict=True)):
        extents = tuple(math.prod(factors) for factors in shape)
        wholes[name] = torch.arange(math.prod(extents), dtype=torch.float64).reshape(extents) + 100 * number
        lie = []
        for at, choice in enumerate(chosen[number]):
            if choice is None:
                lie.append(Copied() if at % 2 else Replicate())
            else:
                dim, i = choice
                lie.append(Shard(dim, max(math.prod(shape[dim][:i]), 1), max(math.prod(shape[dim][i + 1 :]), 1)))
        layouts[TensorSpec(name, extents, torch.float64)] = tuple(lie)
    parts = {
        item.name: take_part(wholes[item.name], lie, live.axes)
        for item, lie in layouts.items()
        if holders.here(item.name)
    }
    return HeldState(live, layouts, parts, holders)


def optimizer_of(held):
    """One that keeps a number for each element, ten times the element, and one for all."""
    tensors = list(held.tensors.values())
    optimizer = torch.optim.SGD(tensors or [torch.zeros(0)], lr=0.1, momentum=0.9)
    for tensor in tensors:
        optimizer.state[tensor] = {"momentum_buffer": tensor * 10, "step": torch.tensor(7.0)}
    return optimizer


@st.composite
def cases(draw):
    shapes = draw(dims())
    return shapes, draw(grids(shapes)), draw(grids(shapes))


@settings(max_examples=20, deadline=None)
@given(cases())
def test_any_grid_reads_what_any_other_wrote(tmp_path_factory, case):
    shapes, before, after = case
    folder = tmp_path_factory.mktemp("saved")

    def first():
        held = made(shapes, before)
        return save(held, optimizer_of(held), JobState("drawn", 1, (0, 1), {}), folder, None)

    path = simulate(ranks_of(before), first)[0]
    index = read_index(path)
    for key, stored in index.tensors.items():
        seen = torch.zeros(stored.shape)
        for part in stored.parts:
            for block in itertools.product(*part.rows):
                seen[tuple(slice(*runs) for runs in block)] += 1
        assert bool((seen == 1).all()), key

    def second():
        held = made(shapes, after)
        expected = {name: value.clone() for name, value in held.tensors.items()}
        for value in held.tensors.values():
            value.fill_(-1)
        optimizer = torch.optim.SGD(list(held.tensors.values()) or [torch.zeros(0)], lr=0.5, momentum=0.1)
        load.check(held, optimizer, index, path)
        load.fill(held, index, path)
        load.fill_optimizer(held, optimizer, index, path)
        assert optimizer.param_groups[0]["lr"] == 0.1
        for name, value in held.tensors.items():
            assert torch.equal(value, expected[name])
            if math.prod(index.tensors[f"model/{name}"].shape if f"model/{name}" in index.tensors else (0,)):
                kept = optimizer.state[value]
                assert torch.equal(kept["momentum_buffer"], expected[name] * 10)
                assert kept["step"] == 7

    simulate(ranks_of(after), second)
