"""Rows of a split dim that are moved, looked up, scanned and compared, against torch on the whole, at any cuts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import (
    Grid,
    amax,
    amin,
    cat,
    cumsum,
    expert_linear,
    experts,
    flip,
    largest,
    logsumexp,
    lookup,
    lookup_along,
    norm,
    roll,
    scatter_along,
    select_row,
    simulate,
    slice_rows,
    smallest,
    std,
    unfold,
    update_rows,
    var,
)

FEW = settings(max_examples=12, deadline=None)
ROWS, COLUMNS = 7, 3


@st.composite
def cut_axes(draw):
    """How many ranks, and where they cut a dim."""
    ranks = draw(st.integers(2, 3))
    inner = sorted(draw(st.lists(st.floats(0, 1), min_size=ranks - 1, max_size=ranks - 1)))
    return ranks, (0.0, *inner, 1.0)


def on_ranks(cuts, function, *tensors):
    """What every rank makes of its rows of the tensors."""

    def rank():
        (axis,) = Grid(str(cuts[0])).axes
        axis.move(cuts[1])
        parts = [x.narrow(0, axis.start(len(x)), axis.part(len(x))).clone() for x in tensors]
        return function(axis, *parts)

    return simulate(cuts[0], rank)


def drawn(seed, rows=ROWS, kind=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    if kind == torch.int64:
        return torch.randint(-4, 5, (rows, COLUMNS), generator=generator)
    return torch.randn(rows, COLUMNS, generator=generator, dtype=kind)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@FEW
@given(
    cut_axes(), st.integers(0, 99), st.integers(-8, 8), st.integers(1, 3), st.sampled_from([torch.int64, torch.float64])
)
def test_moved_rows(cuts, seed, shift, step, kind):
    x, y = drawn(seed, kind=kind), drawn(seed + 1, 4, kind)
    start, stop, _ = slice(shift % 4, 5 + shift % 3).indices(ROWS)
    moves = {
        "roll": (lambda axis, x, y: roll(x, shift, 0, {0: (axis, ROWS)}), x.roll(shift, 0)),
        "flip": (lambda axis, x, y: flip(x, (0, 1), {0: (axis, ROWS)}), x.flip(0, 1)),
        "slice": (lambda axis, x, y: slice_rows(x, 0, start, stop, step, (axis, ROWS)), x[start:stop:step]),
        "cat": (lambda axis, x, y: cat((x, y, x), 0, axis, (ROWS, 4, ROWS)), torch.cat((x, y, x))),
        "unfold": (lambda axis, x, y: unfold(x, 0, 1 + step, step, (axis, ROWS)), x.unfold(0, 1 + step, step)),
        "cumsum": (lambda axis, x, y: cumsum(x, 0, axis), x.cumsum(0)),
    }
    for name, (move, expected) in moves.items():
        parts = on_ranks(cuts, move, x, y)
        assert torch.cat(parts).shape == expected.shape, name
        close(torch.cat(parts), expected)
    rows = on_ranks(cuts, lambda axis, x: select_row(x, 0, shift % ROWS - ROWS, (axis, ROWS)), x)
    close(sum(rows), x[shift % ROWS])


@FEW
@given(cut_axes(), st.integers(0, 99), st.booleans())
def test_reductions_are_the_same_on_every_rank(cuts, seed, ties):
    x = drawn(seed).round() if ties else drawn(seed)
    cases = [
        (lambda axis, x: amax(x, 0, over=(axis,)), x.amax(0)),
        (lambda axis, x: amin(x, (0, 1), over=(axis,)), x.amin()),
        (lambda axis, x: var(x, 0, keepdim=True, over=(axis,)), x.var(0, keepdim=True)),
        (lambda axis, x: std(x, (0, 1), correction=0, over=(axis,)), x.std((0, 1), correction=0)),
        (lambda axis, x: logsumexp(x, 0, over=(axis,)), x.logsumexp(0)),
        *[(lambda axis, x, p=p: norm(x, p, 0, over=(axis,)), torch.linalg.vector_norm(x, p, 0)) for p in (0, 1, 2, 3)],
        (lambda axis, x: norm(x, float("-inf"), 0, over=(axis,)), x.abs().amin(0)),
    ]  # fmt: skip
    for function, expected in cases:
        for found in on_ranks(cuts, function, x):
            close(found, expected)
    for function, expected in ((largest, x.max(0)), (smallest, x.min(0))):
        for values, places in on_ranks(cuts, lambda axis, x, f=function: f(x, 0, over=(axis, ROWS)), x):
            assert torch.equal(values, expected.values)
            assert torch.equal(places, expected.indices)


@FEW
@given(cut_axes(), st.integers(0, 99), st.sampled_from([torch.bool, torch.int64, torch.float32]))
def test_extremes_of_any_dtype_where_a_rank_may_have_no_rows(cuts, seed, dtype):
    x = (drawn(seed) > 0.5).to(dtype)
    for function, expected in ((amax, x.amax(0)), (amin, x.amin(0))):
        for result in on_ranks(cuts, lambda axis, x, f=function: f(x, 0, over=(axis,)), x):
            assert torch.equal(result, expected)


@FEW
@given(cut_axes(), st.integers(0, 99))
def test_rows_by_index(cuts, seed):
    x, source = drawn(seed), drawn(seed + 1, 5)
    index = torch.randint(ROWS, (5, COLUMNS), generator=torch.Generator().manual_seed(seed))
    rows = index[:, 0]
    read = [
        (lambda axis, x: lookup(x, 0, rows - ROWS, (axis, ROWS)), x[rows]),
        (lambda axis, x: lookup_along(x, 0, index, (axis, ROWS)), x.gather(0, index)),
    ]
    for function, expected in read:
        close(sum(on_ranks(cuts, function, x)), expected)
    written = [
        (lambda axis, x: scatter_along(x, 0, index, 2.0, over=(axis, ROWS)), x.scatter(0, index, 2.0)),
        (lambda axis, x: scatter_along(x, 0, index, source, "amin", over=(axis, ROWS)),
         x.scatter_reduce(0, index, source, "amin")),
        (lambda axis, x: update_rows(x, 0, rows, source, alpha=2, over=(axis, ROWS)),
         x.index_add(0, rows, source, alpha=2)),
        (lambda axis, x: update_rows(x, 0, rows, 1.5, "index_fill", over=(axis, ROWS)), x.index_fill(0, rows, 1.5)),
    ]  # fmt: skip
    for function, expected in written:
        close(torch.cat(on_ranks(cuts, function, x)), expected)


@FEW
@given(cut_axes(), st.integers(0, 99), st.booleans())
def test_experts_add_up(cuts, seed, gated):
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(ROWS, 4 * (1 + gated), COLUMNS, generator=generator, dtype=torch.float64)
    down = torch.randn(ROWS, 2, 4, generator=generator, dtype=torch.float64)
    index = torch.randint(ROWS, (6, 2), generator=generator)
    x, weights = drawn(seed, 6), torch.rand(6, 2, generator=generator, dtype=torch.float64)
    gates = torch.relu
    hidden = (up[index] @ x[:, None, :, None]).squeeze(-1)
    hidden = gates(hidden[..., :4]) * hidden[..., 4:] if gated else gates(hidden)
    expected = ((down[index] @ hidden.unsqueeze(-1)).squeeze(-1) * weights.unsqueeze(-1)).sum(1)

    def rank(axis, up, down):
        return experts(x, index, weights, up, down, "relu", gated, (axis, ROWS))

    close(sum(on_ranks(cuts, rank, up, down)), expected)
    first = sum(on_ranks(cuts, lambda axis, up: expert_linear(x, up, index[:, 0], (axis, ROWS)), up))
    close(first, (up[index[:, 0]] @ x.unsqueeze(-1)).squeeze(-1))


def test_a_rank_without_rows_still_takes_part_in_backward():
    """Its results depend on its part, so that the conversion that made the part is reached."""
    empty = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    index = torch.zeros(2, dtype=torch.int64)

    def rank():
        (axis,) = Grid("2").axes
        axis.move((0.0, 0.0, 1.0))
        if axis.index:
            return None
        weights = torch.ones(2, 1, dtype=torch.float64)
        up, down = (torch.zeros(0, *shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (2, 4)))
        x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
        made = [
            (lookup(empty, 0, index, (axis, 5)), empty),
            (lookup_along(empty, 0, index[:, None].expand(2, 3), (axis, 5)), empty),
            (select_row(empty, 0, 3, (axis, 5)), empty),
            (experts(x, index[:, None], weights, up, down, "relu", False, (axis, 5)), x),
            (expert_linear(x, up, index, (axis, 5)), x),
        ]
        return [torch.autograd.grad(y.sum(), leaf)[0] for y, leaf in made]

    gradients = simulate(2, rank)[0]
    assert all(not gradient.any() for gradient in gradients)
