"""Boundaries of several axes move at once: every rank then has the parts that it would have taken of the whole tensors."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards import layouts_of

from autopar.errors import ConfigError
from autopar.ir.layout import Copied, Shard
from autopar.ir.machine import RankClass
from autopar.ir.units import bytes_precisely
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.moving.legal_cuts import check_cuts
from autopar.runtime.parameters.moving.move import move, moved_bytes
from autopar.runtime.parameters.moving.regions import Region
from autopar.runtime.parameters.shards import take_part
from autopar.runtime.program.plan_reader import Description, RankMemory, StepMemory, TensorSpec
from autopar.runtime.transport.forwarding import ForwardingComm


@st.composite
def cuts_of(draw, sizes):
    """Cuts for every axis; None for balanced parts."""
    inner = [sorted(draw(st.lists(st.integers(0, 8), min_size=size - 1, max_size=size - 1))) for size in sizes]
    return [draw(st.sampled_from([None, (0.0, *(one / 8 for one in ends), 1.0)])) for ends in inner]


@st.composite
def cases(draw):
    """A grid, tensors as products of factors that axes cut, cuts before and after, and the size of messages."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda sizes: 2 <= math.prod(sizes) <= 8))
    tensors = []
    for _ in range(draw(st.integers(1, 3))):
        dims = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3))
        factors = [(dim, i) for dim, extents in enumerate(dims) for i in range(len(extents))]
        chosen = [draw(st.none() | st.sampled_from(factors)) for _ in sizes]
        tensors.append((tuple(map(math.prod, dims)), layouts_of(dims, chosen)))
    return sizes, tensors, draw(cuts_of(sizes)), draw(cuts_of(sizes)), draw(st.sampled_from([8, 64, 1 << 20]))


class Counted(ForwardingComm):
    """Notes the bytes of messages: what goes out, what comes in, the largest."""

    def __init__(self, inner):
        super().__init__(inner)
        self.sent = self.received = self.largest = 0

    def exchange(self, sends, recvs):
        self.sent += sum(one.nbytes for one in sends.values())
        self.received += sum(one.nbytes for one in recvs.values())
        self.largest = max([self.largest, *(one.nbytes for one in (*sends.values(), *recvs.values()))])
        super().exchange(sends, recvs)


def whole(shape, number):
    """Numbers of which none is there twice."""
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape) + 1000 * number + 1


def held_on(grid, tensors):
    """Parameters with gradients and AdamW's state; a rank without rows has neither."""
    parts = [
        torch.nn.Parameter(take_part(whole(shape, i), layouts, grid.axes)) for i, (shape, layouts) in enumerate(tensors)
    ]
    optimizer = torch.optim.AdamW(parts)
    for part in parts:
        if part.numel():
            part.grad = -part.detach().clone()
            optimizer.state[part] = {"step": torch.tensor(7.0), "exp_avg": 2 * part.detach()}
    held = [
        (TensorSpec(f"p{i}", shape, torch.float64), layouts, part)
        for i, ((shape, layouts), part) in enumerate(zip(tensors, parts, strict=True))
    ]
    return held, optimizer


@settings(max_examples=25, deadline=None)
@given(cases())
def test_parts_move_with_gradients_and_state_and_no_row_travels_twice(case):
    sizes, tensors, first, second, piece = case

    def rank():
        grid = Grid("x".join(map(str, sizes)))
        for axis, cuts in zip(grid.axes, first, strict=True):
            axis.move(cuts)
        held, optimizer = held_on(grid, tensors)
        before = [set(part.flatten().tolist()) for _, _, part in held]
        after = {axis.name: cuts for axis, cuts in zip(grid.axes, second, strict=True)}
        foreseen = moved_bytes(grid, after, held, optimizer) if all(before) else None
        grid.group = comm = Counted(grid.group)
        move(grid, after, held, optimizer, piece=piece)
        missing = 0
        for number, ((item, layouts, part), rows) in enumerate(zip(held, before, strict=True)):
            expected = take_part(whole(item.shape, number), layouts, grid.axes)
            assert torch.equal(part.detach(), expected)
            missing += 3 * 8 * len(set(expected.flatten().tolist()) - rows)
            if expected.numel():
                state = optimizer.state[part]
                assert torch.equal(part.grad, -expected)
                assert torch.equal(state["exp_avg"], 2 * expected)
                assert state["step"] == 7.0
        assert comm.received == missing
        assert comm.largest <= max(piece, 8)
        return comm.sent, foreseen

    found = simulate(math.prod(sizes), rank)
    sent = [one for one, _ in found]
    assert all(foreseen in (None, sent) for _, foreseen in found)


@given(
    st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=6, unique=True).map(sorted), min_size=1, max_size=3),
    st.integers(1, 20),
)
def test_regions_in_pieces_are_the_region(ends, most):
    dims = tuple(tuple(zip(one[::2], one[1::2], strict=False)) for one in ends)
    part = torch.rand([12] * len(dims))
    region, copy = Region(dims), torch.zeros([12] * len(dims))
    region.put(copy, region.take(part))
    again = torch.zeros_like(part)
    for piece in region.pieces(most):
        assert piece.numel <= most
        piece.put(again, piece.take(part))
    mask = torch.zeros_like(part)
    mask[torch.meshgrid(*(torch.cat([torch.arange(*run) for run in runs]) for runs in dims), indexing="ij")] = 1
    assert torch.equal(copy, part * mask)
    assert torch.equal(again, copy)


def refused(held, optimizer, grid, cuts, **options):
    """What is said where ranks do not move, after which everything is as it was."""
    before = [part.detach().clone() for _, _, part in held]
    with pytest.raises(ConfigError) as error:
        move(grid, cuts, held, optimizer, **options)
    assert all(torch.equal(part.detach(), old) for (_, _, part), old in zip(held, before, strict=True))
    assert all(axis.cuts is None for axis in grid.axes)
    return str(error.value)


def test_state_that_cannot_be_cut_and_cuts_that_are_none_are_refused_with_all_offenders():
    def rank():
        grid = Grid("data=2,model=2")
        held, optimizer = held_on(grid, [((4, 6), (Copied(), Shard(0))), ((6,), (Shard(0), Copied()))])
        for _, _, part in held:
            optimizer.state[part] = {"row_var": torch.zeros(7), "history": [part], "nothing": None}
        said = refused(held, optimizer, grid, {"data": (0.0, 0.2, 1.0), "model": (0.0, 0.8, 1.0)})
        assert re.search(r"(?s)row_var for p0.*history for p0, a list.*row_var for p1", said)
        assert "nothing" not in said
        with pytest.raises(ConfigError, match=r"(?s)no axis 'date'; did you mean 'data'.*model at \(0.0, 0.5\)"):
            check_cuts(grid.axes, {"date": None, "model": (0.0, 0.5)}, [])

    simulate(4, rank)


def test_no_rank_holds_more_than_it_may():
    """Rows of 800 bytes, with gradient, and AdamW's state of one more: 2400 bytes a row, and what a step takes beside."""
    machine = RankMemory(60000, 1, (RankClass("1", memory_bytes=33000),))
    known = Description("p", "2", (), (), machine=machine, predicted=StepMemory(inputs_bytes=12000))

    def rank():
        grid = Grid("2")
        held, optimizer = held_on(grid, [((10, 100), (Shard(0),))])
        for first, most in ((0.1, 9 * 2400 + 1.8 * 12000), (0.3, 7 * 2400 + 1.4 * 12000)):
            said = refused(held, optimizer, grid, {"axis0": (0.0, first, 1.0)}, description=known, piece=8)
            assert f"rank 1 would hold {bytes_precisely(most, up=True)} of {bytes_precisely(33000)}\n" in said
            assert "rank 0" not in said
        for first in (0.4, 1.0):
            move(grid, {"axis0": (0.0, first, 1.0)}, held, optimizer, known, piece=8)
        return held[0][2].shape[0]

    assert simulate(2, rank) == [10, 0]


def test_ranks_that_count_steps_differently_are_told():
    def rank():
        grid = Grid("2")
        held, optimizer = held_on(grid, [((4,), (Shard(0),))])
        optimizer.state[held[0][2]]["step"] += grid.rank
        move(grid, {"axis0": (0.0, 0.25, 1.0)}, held, optimizer)

    with pytest.raises(ConfigError, match="step of p0"):
        simulate(2, rank)
