"""Conversions of images that lie channels last on some ranks or all: the same numbers, in the order of what was given."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import (
    Grid,
    Shard,
    all_gather,
    all_sum,
    all_to_all,
    copy,
    gather,
    reduce_scatter,
    simulate,
    split,
    take,
    zero_fill,
)
from autopar.runtime.grid.memory_format import order

WHOLE = {  # of a whole tensor over the axis
    "split": lambda x, dim, axis, extent: split(x, dim, axis),
    "take": lambda x, dim, axis, extent: take(x, dim, axis),
    "reduce_scatter": lambda x, dim, axis, extent: reduce_scatter(x, dim, axis),
    "all_sum": lambda x, dim, axis, extent: all_sum(x, axis),
    "copy": lambda x, dim, axis, extent: copy(x, axis),
}
PARTS = {
    "gather": gather,
    "all_gather": all_gather,
    "zero_fill": zero_fill,
    "all_to_all": lambda x, dim, axis, extent: all_to_all(x, axis, Shard(dim), Shard((dim + 1) % 4), extent),
}
# the same dim, read as blocks of a row: it is all the first rank's then
RECUT = {"recut": lambda x, dim, axis, extent: all_to_all(x, axis, Shard(dim), Shard(dim, extent), extent)}
EVERY = WHOLE | PARTS | RECUT


def made(rank, shape, last):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def step(name, shape, dim, cuts, lasts):
    """On every rank: the result, its gradient, and the orders of what was given and made, forward and backward."""

    def rank():
        grid = Grid(str(len(lasts)))
        (axis,) = grid.axes
        axis.move(cuts)
        local = list(shape)
        if name in PARTS | RECUT:
            local[dim] = axis.part(shape[dim])
        x = made(grid.rank, local, lasts[grid.rank]).requires_grad_()
        y = EVERY[name](x, dim, axis, shape[dim])
        dy = made(7 if name in ("gather", "all_sum") else grid.rank + 9, y.shape, lasts[grid.rank])
        (dx,) = torch.autograd.grad(y, x, dy)
        return y.detach(), dx, (order(x), order(y)), (order(dy), order(dx))

    return simulate(len(lasts), rank)


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(sorted(EVERY)),
    dim=st.integers(0, 3),
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    lasts=st.lists(st.booleans(), min_size=2, max_size=3),
    data=st.data(),
)
def test_ranks_may_differ_in_the_order_of_memory(name, dim, shape, lasts, data):
    points = data.draw(st.none() | st.lists(st.sampled_from((0.0, 0.3, 0.5, 1.0)), min_size=2, max_size=2))
    cuts = None if points is None else (0.0, *sorted(points[: len(lasts) - 1]), 1.0)
    ours = step(name, shape, dim, cuts, lasts)
    plain = step(name, shape, dim, cuts, [False] * len(lasts))
    for (y, dx, _, _), (wanted, wanted_dx, _, _) in zip(ours, plain, strict=True):
        assert torch.equal(y, wanted)
        assert torch.equal(dx, wanted_dx)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", sorted(WHOLE | PARTS))
def test_what_is_made_lies_as_what_was_given(name, dim):
    for _, _, forward, backward in step(name, (4, 6, 4, 3), dim, None, [True, True]):
        assert forward == (torch.channels_last,) * 2
        assert backward == (torch.channels_last,) * 2


def test_images_are_sent_as_they_lie_and_others_in_the_order_of_dims(monkeypatch):
    """Whether all are images is asked once; a rank whose tensor lies otherwise later turns it."""

    def rank():
        grid = Grid("2")
        (axis,) = grid.axes
        sent, calls = [], []
        gather_all, ask = axis.comm.all_gather, axis.comm.gather_objects
        monkeypatch.setattr(axis.comm, "all_gather", lambda x, out: sent.append(x.data_ptr()) or gather_all(x, out))
        monkeypatch.setattr(axis.comm, "gather_objects", lambda item: calls.append(item) or ask(item))
        found = []
        for lasts in ((True, True), (True, False), (True, True)):
            x = made(grid.rank, (2, 3, 4, 5), lasts[grid.rank])
            found.append(all_gather(x, 1, axis, 6))
            assert (sent[-1] == x.data_ptr()) == lasts[grid.rank]
            assert order(found[-1]) == torch.channels_last
        assert calls == [True]
        assert torch.equal(found[0], found[1])
        plain = made(grid.rank, (2, 3, 4, 6), False)
        assert order(all_gather(plain, 1, axis, 6)) == torch.contiguous_format
        assert sent[-1] == plain.data_ptr()

    simulate(2, rank)


def test_gradients_of_complex_numbers_on_a_rank_that_has_none():
    x = torch.randn(3, 1, 4, dtype=torch.complex128)

    def rank():
        (axis,) = Grid("2").axes
        part = split(x, 1, axis).requires_grad_()  # one rank has no rows of dim 1: no channels
        pairs = all_to_all(torch.view_as_real(part), axis, Shard(1), Shard(0), 1)
        (pairs.square().sum() * 0.5).backward()
        torch.testing.assert_close(part.grad, part.detach())
        return part.shape[1]

    assert sorted(simulate(2, rank)) == [0, 1]
