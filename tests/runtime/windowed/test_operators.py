"""Windowed operators over split spatial dims equal torch's on the whole tensor: results and every gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import ProgramMismatch
from autopar.runtime import Grid, avg_pool, conv, conv_transpose, max_pool, simulate

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
MAX_POOL = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
RANKS = [1, pytest.param(2, marks=pytest.mark.zoo), 3, pytest.param(4, marks=pytest.mark.zoo)]
AVG_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_call(kind, x, weight, bias, s):
    """The operator on the whole tensor. `s`: kernel, stride, padding, dilation, output_padding, groups, include."""
    i = len(s["kernel"]) - 1
    if kind == "conv":
        return CONV[i](x, weight, bias, s["stride"], s["padding"], s["dilation"], s["groups"])
    if kind == "conv_transpose":
        return CONV_TRANSPOSE[i](
            x, weight, bias, s["stride"], s["padding"], s["output_padding"], s["groups"], s["dilation"]
        )
    if kind == "max_pool":
        return MAX_POOL[i](x, s["kernel"], s["stride"], s["padding"], s["dilation"])
    return AVG_POOL[i](x, s["kernel"], s["stride"], s["padding"], count_include_pad=s["include"])


def our_call(kind, x, weight, bias, s, over):
    if kind == "conv":
        return conv(x, weight, bias, s["stride"], s["padding"], s["dilation"], s["groups"], over=over)
    if kind == "conv_transpose":
        arguments = s["stride"], s["padding"], s["output_padding"], s["groups"], s["dilation"]
        return conv_transpose(x, weight, bias, *arguments, over=over)
    if kind == "max_pool":
        return max_pool(x, s["kernel"], s["stride"], s["padding"], s["dilation"], over=over)
    return avg_pool(x, s["kernel"], s["stride"], s["padding"], s["include"], over=over)


def place(axis, extent):
    bounds = axis.bounds(extent)
    return slice(bounds[axis.index], bounds[axis.index + 1])


def check(kind, axes, dims, x, weight, bias, s):
    """Called on every rank: compares its parts of the result and of every gradient with torch's.

    `dims` are the split dims of x, one per axis. Raises AssertionError where anything differs.
    """
    learned = [p for p in (weight, bias) if p is not None]
    whole = [one.clone().requires_grad_() for one in (x, *learned)]
    wanted = torch_call(kind, whole[0], *[*whole[1:], None, None][:2], s)
    if wanted.isinf().any():
        return  # a dilated maximum of padding alone: torch sends its gradient to some row that is not in the window
    dy = random(*wanted.shape, seed=9)
    grads = torch.autograd.grad(wanted, whole, dy)

    xs, ys = [slice(None)] * x.dim(), [slice(None)] * x.dim()
    for axis, dim in zip(axes, dims, strict=True):
        xs[dim], ys[dim] = place(axis, x.shape[dim]), place(axis, wanted.shape[dim])
    local = [one.clone().requires_grad_() for one in (x[tuple(xs)], *learned)]
    over = {dim: (axis, x.shape[dim]) for axis, dim in zip(axes, dims, strict=True)}
    y = our_call(kind, local[0], *[*local[1:], None, None][:2], s, over)
    torch.testing.assert_close(
        y.detach(), wanted[tuple(ys)].detach(), rtol=1e-11, atol=1e-11, msg=lambda m: f"{s}: {m}"
    )
    mine = list(torch.autograd.grad(y, local, dy[tuple(ys)]))
    torch.testing.assert_close(mine[0], grads[0][tuple(xs)], rtol=1e-11, atol=1e-11, msg=lambda m: f"{s}: {m}")
    for ours, theirs in zip(mine[1:], grads[1:], strict=True):
        for axis in axes:
            axis.comm.all_reduce(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11, msg=lambda m: f"{s}: {m}")


def settings_1d():
    """Every small kernel, stride, padding and dilation."""
    for k, s, p, d in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (1, 2)):
        yield {"kernel": (k,), "stride": (s,), "padding": (p,), "dilation": (d,), "groups": 1, "include": True}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("kind", ["conv", "max_pool", "avg_pool"])
def test_one_dim_exhaustively(kind, ranks):
    """Extents from 1, so parts are empty, windows reach beyond the nearest neighbour, and both sides are trimmed."""

    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        count = 0
        for s, n in itertools.product(settings_1d(), (1, 3, 5, 11)):
            k, d, p = s["kernel"][0], s["dilation"][0], s["padding"][0]
            legal = kind == "conv" or (p <= k // 2 and (kind == "max_pool" or d == 1))
            if legal and n + 2 * p >= d * (k - 1) + 1:
                weight = random(3, 2, k, seed=1) if kind == "conv" else None
                bias = random(3, seed=2) if kind == "conv" else None
                check(kind, (axis,), (2,), random(1, 2, n), weight, bias, s)
                count += 1
        return count

    assert min(simulate(ranks, rank_main)) > 50


@pytest.mark.parametrize("ranks", RANKS)
def test_one_dim_transposed_exhaustively(ranks):
    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        count = 0
        for s, n in itertools.product(settings_1d(), (1, 2, 5)):
            k, st_, p, d = (s[name][0] for name in ("kernel", "stride", "padding", "dilation"))
            for extra in range(max(st_, d)):
                if (n - 1) * st_ - 2 * p + d * (k - 1) + 1 + extra > 0:
                    given = {**s, "output_padding": (extra,)}
                    check("conv_transpose", (axis,), (2,), random(1, 2, n), random(2, 3, k), random(3, seed=2), given)
                    count += 1
        return count

    assert min(simulate(ranks, rank_main)) > 300


@st.composite
def cases(draw):
    """A random operator in one to three dims, one or two of which are split over axes with random cuts."""
    kind = draw(st.sampled_from(["conv", "conv_transpose", "max_pool", "avg_pool"]))
    spatial = draw(st.integers(1, 3))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, stride = numbers(1, 4), numbers(1, 3)
    dilation = (1,) * spatial if kind == "avg_pool" else numbers(1, 2)
    pool = kind.endswith("pool")
    padding = tuple(draw(st.integers(0, k // 2 if pool else 2)) for k in kernel)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    shape = []
    for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True):
        least = -(-(2 * p - d * (k - 1)) // s) + 1 if kind == "conv_transpose" else d * (k - 1) + 1 - 2 * p
        least = max(least, k if kind == "avg_pool" else 1)  # torch's own limit in three dims
        shape.append(draw(st.integers(least, least + 7)))
    split = draw(st.permutations(range(spatial)))[: draw(st.integers(1, min(2, spatial)))]
    sizes = [draw(st.integers(1, 4 if len(split) == 1 else 3)) for _ in split]
    cuts = [
        draw(st.none() | st.lists(st.floats(0, 1), min_size=size - 1, max_size=size - 1).map(sorted)) for size in sizes
    ]
    return {
        "kind": kind,
        "shape": (draw(st.integers(1, 2)), 4, *shape),
        "dims": tuple(2 + dim for dim in split),
        "sizes": sizes,
        "cuts": cuts,
        "bias": draw(st.booleans()),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "output_padding": extra,
        "groups": draw(st.sampled_from([1, 2])),
        "include": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_random_settings(case):
    weight = bias = None
    if case["kind"] == "conv":
        weight = random(6, 4 // case["groups"], *case["kernel"], seed=1)
    if case["kind"] == "conv_transpose":
        weight = random(4, 6 // case["groups"], *case["kernel"], seed=1)
    if case["bias"] and weight is not None:
        bias = random(6, seed=2)

    def rank_main():
        axes = Grid("x".join(map(str, case["sizes"]))).axes
        for axis, inner in zip(axes, case["cuts"], strict=True):
            axis.move(None if inner is None else (0.0, *inner, 1.0))
        check(case["kind"], axes, case["dims"], random(*case["shape"]), weight, bias, case)

    ranks = 1
    for size in case["sizes"]:
        ranks *= size
    simulate(ranks, rank_main)


def test_corners_come_right_with_two_split_dims():
    """Result rows at the meeting point of four ranks read rows of all four."""

    def rank_main():
        axes = Grid("2x2").axes
        s = {"kernel": (5, 5), "stride": (1, 1), "padding": (2, 2), "dilation": (1, 1), "groups": 1}
        check("conv", axes, (2, 3), random(1, 1, 6, 5), random(1, 1, 5, 5), None, s)

    simulate(4, rank_main)


def test_nothing_is_copied_where_nothing_is_fetched():
    """A pointwise convolution, and a pooling whose windows end at the boundary, run on the operand itself."""
    from autopar.runtime.primitives.halo import halo

    def rank_main():
        axis = Grid("2").axes[0]
        x = random(1, 1, 4)
        return halo(x, 2, axis, 8, [(0, 4), (4, 8)]) is x

    assert all(simulate(2, rank_main))


@pytest.mark.parametrize("x_shape", [(0, 2, 4), (1, 0, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_empty_batch_or_no_channels(x_shape, transposed):
    """A sum over no channels is the bias; parameters still get their gradients of zero, so that buckets fill."""

    def rank_main():
        axis = Grid("2").axes[0]
        x = torch.zeros(x_shape, requires_grad=True)
        weight = torch.ones((x_shape[1], 3, 3) if transposed else (3, x_shape[1], 3), requires_grad=True)
        bias = torch.arange(3.0, requires_grad=True)
        function = conv_transpose if transposed else conv
        y = function(x, weight, bias, padding=1, over={2: (axis, 8)})
        y.sum().backward()
        assert x.grad is not None
        assert weight.grad is not None
        return y.detach(), bias.grad

    for y, grad in simulate(2, rank_main):
        assert y.shape == (x_shape[0], 3, 4)
        assert torch.equal(y, torch.arange(3.0).view(1, 3, 1).expand(y.shape))
        assert grad.tolist() == [4.0 * x_shape[0]] * 3


def test_a_part_of_the_wrong_size_is_refused():
    with pytest.raises(ProgramMismatch, match="this rank holds 4"):
        simulate(2, lambda: conv(torch.ones(1, 1, 5), torch.ones(1, 1, 3), over={2: (Grid("2").axes[0], 8)}))
