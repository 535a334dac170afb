"""Group, layer and RMS norm of split sets equal torch's on whole ones: values and gradients; no digits are lost far from zero."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, group_norm, layer_norm, rms_norm, simulate

CUTS = (None, (0.0, 0.3, 1.0), (0.0, 1.0, 1.0))


def part_of(tensor, place):
    return tensor[place].clone().requires_grad_()


def split_run(grid, cuts, dims, tensors, dy, function):
    """Run `function` with every tensor's dims ``dims[i]`` (of the first one) split over the axes; put results together.

    Returns y and the gradients, those of tensors that lack a split dim summed.
    """
    shape = tensors[0].shape

    def rank_main():
        axes = Grid(grid).axes
        axes[0].move(cuts if axes[0].size == 2 else None)
        rows = {dim: slice(*axis.bounds(shape[dim])[axis.index :][:2]) for dim, axis in zip(dims, axes, strict=True)}
        places = [
            tuple(rows.get(dim, slice(None)) if one.dim() == len(shape) else slice(None) for dim in range(one.dim()))
            for one in tensors
        ]
        for i, one in enumerate(tensors[1:], 1):  # weights have the last dims of x, or its channels
            first = len(shape) - one.dim() if one.shape == shape[-one.dim() :] else 1
            places[i] = tuple(rows.get(first + dim, slice(None)) for dim in range(one.dim()))
        parts = [part_of(one, place) for one, place in zip(tensors, places, strict=True)]
        y = function(*parts, axes)
        y.backward(dy[places[0]])
        return places, y.detach(), [one.grad for one in parts]

    y, grads = torch.zeros_like(tensors[0]), [torch.zeros_like(one) for one in tensors]
    for places, part, found in simulate(math.prod(map(int, grid.split("x"))), rank_main):
        y[places[0]] = part
        for grad, place, one in zip(grads, places, found, strict=True):
            grad[place] += one
    return y, grads


def whole_run(tensors, dy, function):
    leaves = [one.clone().requires_grad_() for one in tensors]
    y = function(*leaves)
    y.backward(dy)
    return y.detach(), [one.grad for one in leaves]


def same(one, other):
    assert torch.allclose(one[0], other[0], rtol=1e-11, atol=1e-12)
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


def drawn(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@settings(deadline=None, max_examples=12)
@given(
    grid=st.sampled_from([("2", (2,)), ("3", (3,)), ("2x2", (2, 3)), ("2x2", (3, 2))]),
    shape=st.sampled_from([(2, 4, 5, 3), (1, 6, 2, 7), (3, 2, 1, 4)]),
    groups=st.sampled_from([1, 2]),
    cuts=st.sampled_from(CUTS),
    seed=st.integers(0, 99),
)
def test_group_norm_over_split_space(grid, shape, groups, cuts, seed):
    x, w, b, dy = drawn(seed, shape, shape[1:2], shape[1:2], shape)
    mine = split_run(
        grid[0], cuts, grid[1], [x, w, b], dy, lambda x, w, b, axes: group_norm(x, groups, w, b, 1e-3, axes)
    )
    same(mine, whole_run([x, w, b], dy, lambda x, w, b: F.group_norm(x, groups, w, b, 1e-3)))


@settings(deadline=None, max_examples=12)
@given(
    grid=st.sampled_from([("2", (-1,)), ("3", (-1,)), ("2x2", (-2, -1))]),
    shape=st.sampled_from([(2, 5, 3), (1, 2, 7), (3, 4, 2)]),
    cuts=st.sampled_from(CUTS),
    seed=st.integers(0, 99),
    rms=st.booleans(),
)
def test_layer_and_rms_norm_over_split_features(grid, shape, cuts, seed, rms):
    dims = tuple(dim % len(shape) for dim in grid[1])
    x, w, b, dy = drawn(seed, shape, shape[-len(dims) :], shape[-len(dims) :], shape)
    inner = shape[-len(dims) :]
    if rms:
        mine = split_run(grid[0], cuts, dims, [x, w], dy, lambda x, w, axes: rms_norm(x, len(dims), w, 1e-3, axes))
        same(mine, whole_run([x, w], dy, lambda x, w: F.rms_norm(x, inner, w, 1e-3)))
    else:
        mine = split_run(
            grid[0], cuts, dims, [x, w, b], dy, lambda x, w, b, axes: layer_norm(x, len(dims), w, b, 1e-3, axes)
        )
        same(mine, whole_run([x, w, b], dy, lambda x, w, b: F.layer_norm(x, inner, w, b, 1e-3)))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_far_from_zero_no_digits_are_lost(offset):
    """E[x^2] - E[x]^2 would leave nothing of a variance of 1 around 10000 in float32."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 64, generator=generator) + offset

    def rank_main():
        (axis,) = Grid("3").axes
        low, high = axis.bounds(64)[axis.index :][:2]
        return layer_norm(x[..., low:high], 1, over=(axis,))

    found = torch.cat(simulate(3, rank_main), -1)
    exact = F.layer_norm(x.double(), (64,))
    theirs = float((F.layer_norm(x, (64,)) - exact).abs().max())
    assert float((found - exact).abs().max()) <= 4 * theirs + 1e-6


def test_half_precision_comes_back_as_it_went():
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)).bfloat16()

    def rank_main():
        (axis,) = Grid("2").axes
        return rms_norm(x[:, 4 * axis.index : 4 * axis.index + 4], 1, eps=1e-5, over=(axis,))

    found = torch.cat(simulate(2, rank_main), -1)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), F.rms_norm(x.float(), (8,), eps=1e-5), atol=2e-2)
