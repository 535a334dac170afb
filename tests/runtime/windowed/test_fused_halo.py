"""One wide exchange for a run of layers equals the layers one after another: value and every gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from window_runs import compare, layouts, random, whole_run

from autopar.errors import ConfigError
from autopar.ir.layout import even_bounds
from autopar.runtime import (
    AvgPool,
    Conv,
    ConvTranspose,
    Grid,
    Interpolate,
    MaxPool,
    Pad,
    conv,
    simulate,
    wide,
    wide_saves,
)
from autopar.runtime.primitives.halo import halo
from autopar.runtime.windowed.fused_halo import route
from autopar.runtime.windowed.receptive_field import StridedWindow, shown_row

POINTWISE = (torch.sigmoid, torch.tanh, F.silu)  # none keeps zero rows and gradients alike, or has kinks
MODES = ("zeros", "zeros", "reflect", "replicate")


@st.composite
def runs(draw):
    """A run of up to four windowed layers with functions between them, and extents on which torch can do it."""
    spatial = draw(st.integers(1, 2))
    shape = [draw(st.integers(2, 12)) for _ in range(spatial)]
    begin = list(shape)
    layers = [draw(st.sampled_from(POINTWISE))] if draw(st.booleans()) else []
    for at in range(draw(st.integers(1, 4))):
        made = draw(one_layer(spatial, shape, at))
        if made is None:
            continue
        layers.append(made)
        shape[:] = whole_run(torch.zeros(1, 2, *shape, dtype=torch.float64), [made]).shape[2:]
        layers += [draw(st.sampled_from(POINTWISE))] if draw(st.booleans()) else []
    return (draw(st.integers(1, 2)), 2, *begin), layers, draw(layouts(spatial))


@st.composite
def one_layer(draw, spatial, shape, at):
    """A layer that fits these extents, or None."""
    kind = draw(st.sampled_from(("conv", "conv", "conv", "max", "avg", "pad", "transposed", "resize")))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, stride, dilation = numbers(1, 4), numbers(1, 3), numbers(1, 2)
    mode = draw(st.sampled_from((*MODES, "circular") if at == 0 else MODES))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if mode in ("reflect", "circular") and any(p >= n for p, n in zip(padding, shape, strict=True)):
        return None
    if kind == "transposed":
        return ConvTranspose(parameter(2, 2, *numbers(1, 3), seed=at), parameter(2, seed=8), stride)
    if kind == "resize":
        return Interpolate(numbers(1, 9), kind="nearest", dtype=torch.float64)
    if kind == "pad":
        return Pad(tuple(p for one in reversed(padding) for p in (one, one)), mode, 0.5)
    gaps = (1,) * spatial if kind == "avg" else dilation
    if kind == "max" and any(n < 2 * d * k for n, d, k in zip(shape, dilation, kernel, strict=True)):
        padding = (0,) * spatial  # of a window of padding alone, torch gives the gradient to a row outside it
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(shape, padding, gaps, kernel, strict=True)):
        return None
    if kind == "max":
        return MaxPool(kernel, stride, padding, dilation)
    if kind == "avg":
        return AvgPool(kernel, stride, padding, draw(st.booleans()))
    return Conv(parameter(2, 2, *kernel, seed=at), parameter(2, seed=7), stride, padding, dilation, 1, mode)


def parameter(*shape, seed):
    return random(*shape, seed=seed).requires_grad_()


@settings(deadline=None, max_examples=50)
@given(run=runs())
def test_a_run_equals_its_layers(run):
    """Uneven and empty parts, rows from beyond the neighbours, kernels that end at the boundary of the whole."""
    shape, layers, layout = run
    compare(random(*shape), layers, layout, wide)


def test_a_unet_level_in_three_dims_with_two_split():
    layers = [
        Conv(parameter(3, 2, 3, 3, 3, seed=1), parameter(3, seed=2), padding=1),
        torch.tanh,
        Conv(parameter(2, 3, 3, 3, 3, seed=3), None, padding=1),
        MaxPool((2, 2, 2)),
        Conv(parameter(2, 2, 3, 3, 3, seed=4), padding=1),
        ConvTranspose(parameter(2, 2, 2, 2, 2, seed=5), stride=2),
    ]
    compare(random(1, 2, 9, 8, 6), layers, ((2, 4), [3, 2], [(0.0, 0.5, 0.6, 1.0), None]), wide)


def test_redundant_rows_count_once_in_the_gradients_of_weights():
    """Three convolutions of ones: what two ranks both make is in the sum over ranks once."""

    def rank_main():
        axis = Grid("2").axes[0]
        weights = [torch.ones(1, 1, 3, requires_grad=True) for _ in range(3)]
        y = wide(torch.ones(1, 1, 4), [Conv(w, padding=1) for w in weights], {2: (axis, 8)})
        y.sum().backward()
        for w in weights:
            axis.comm.all_reduce(w.grad)
        return [w.grad for w in weights]

    whole = [torch.ones(1, 1, 3, requires_grad=True) for _ in range(3)]
    y = torch.ones(1, 1, 8)
    for w in whole:
        y = F.conv1d(y, w, padding=1)
    y.sum().backward()
    for grads in simulate(2, rank_main):
        assert all(torch.equal(ours, theirs.grad) for ours, theirs in zip(grads, whole, strict=True))


def test_there_is_one_exchange_per_split_dim():
    """However many layers: two axes, four ranks, one message from each along each axis."""
    calls = []

    def rank_main():
        axes = Grid("2x2").axes
        for axis in axes:
            exchange = axis.comm.exchange

            def counted(sends, recvs, exchange=exchange):
                calls.append(len(sends))
                exchange(sends, recvs)

            axis.comm.exchange = counted
        layers = [Conv(torch.ones(1, 1, 3, 3), padding=1), F.relu, Conv(torch.ones(1, 1, 3, 3), padding=1)]
        wide(torch.ones(1, 1, 4, 4), layers, {2: (axes[0], 8), 3: (axes[1], 8)})

    simulate(4, rank_main)
    assert calls == [1] * 8


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(1, 15),
    windows=st.lists(
        st.builds(StridedWindow, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
        max_size=4,
        min_size=1,
    ),
    ranks=st.integers(1, 5),
    modes=st.lists(st.sampled_from(("zeros", "replicate")), min_size=4, max_size=4),
)
def test_a_route_holds_just_the_rows_that_are_read(n, windows, ranks, modes):
    """Against the rows found tap by tap, and those between them."""
    modes = modes[: len(windows)]
    extents = list(itertools.accumulate(windows, lambda n, window: window.extent(n), initial=n))
    if 0 in extents:
        return
    bounds = even_bounds(extents[-1], ranks)
    plan = route(tuple(windows), tuple(modes), n, bounds)
    for steps, made, wanted in zip(plan.steps, itertools.pairwise(bounds), plan.fetched, strict=True):
        rows = range(*made)
        for at in reversed(range(len(windows))):
            one, m = windows[at], extents[at]
            assert steps[at].result == (rows.start, rows.stop) or not rows
            read = {j * one.stride - one.padding + one.dilation * i for j in rows for i in range(one.kernel)}
            positions = range(min(read), max(read) + 1) if read else range(0)
            shown = {shown_row(q, m, modes[at]) for q in positions if modes[at] != "zeros" or 0 <= q < m}
            rows = range(min(shown), max(shown) + 1) if shown else range(0)
            assert [row for low, high in steps[at].held for row in range(low, high)] == list(rows)
        inside = tuple((max(low, 0), min(high, n)) for low, high in wanted)
        assert tuple(one for one in inside if one[0] < one[1]) == steps[0].held


def test_refusals():
    def with_layers(*layers):
        def rank_main():
            return wide(torch.ones(1, 1, 4), layers, {2: (Grid("2").axes[0], 8)})

        return lambda: simulate(2, rank_main)

    plain = Conv(torch.ones(1, 1, 3), padding=1)
    with pytest.raises(ConfigError, match="circular padding"):
        with_layers(plain, Conv(torch.ones(1, 1, 3), padding=1, mode="circular"))()
    with pytest.raises(ConfigError, match="keeps the spatial dims"):
        with_layers(plain, lambda x: x[..., 1:])()
    with pytest.raises(ConfigError, match="has 2 spatial dims"):
        with_layers(plain, Conv(torch.ones(1, 1, 3, 3)))()


def test_a_run_without_windows_is_its_functions():
    def rank_main():
        x = torch.ones(1, 1, 4)
        return wide(x, [torch.tanh], {2: (Grid("2").axes[0], 8)}).equal(x.tanh()) and wide(x, []) is x

    assert simulate(2, rank_main) == [True, True]


def test_the_run_of_one_layer_is_the_operator():
    """And an exchange by hand before torch's operator is what both do."""

    def rank_main():
        axis = Grid("2").axes[0]
        x, weight = random(1, 1, 8)[..., 4 * axis.index : 4 * axis.index + 4], random(1, 1, 3, seed=1)
        over = {2: (axis, 8)}
        by_hand = F.conv1d(halo(x, 2, axis, 8, [(-1, 5), (3, 9)]), weight)
        assert torch.equal(conv(x, weight, padding=1, over=over), by_hand)
        assert torch.equal(wide(x, [Conv(weight, padding=1)], over), by_hand)

    simulate(2, rank_main)


@given(
    alpha=st.floats(0, 1), beta=st.floats(0, 1), row=st.floats(0, 1), ranks=st.integers(2, 4), layers=st.integers(1, 3)
)
def test_what_a_wide_exchange_saves(alpha, beta, row, ranks, layers):
    """By hand: with kernel 3 every layer fetches a row from either side; l layers at once fetch l, and layer k of
    them makes l - k rows too many per side. The bytes are the same, the messages fewer."""
    axis = simulate(ranks, lambda: Grid(str(ranks)).axes[0])[0]
    sides = min(2, ranks - 1)
    run = [Conv(torch.ones(1, 1, 3), padding=1)] * layers
    saved = wide_saves(run, 0, axis, 8 * ranks, [4.0] * layers, [row] * layers, alpha, beta)
    redundant = sides * layers * (layers - 1) // 2
    assert saved == pytest.approx(2 * alpha * sides * (layers - 1) - row * redundant, abs=1e-9)
