"""Moments of parts, and of parts together, are those of the whole in float64; far from zero no digits are lost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, simulate, var
from autopar.runtime.functional.moments import channel_sums, combine, local_moments

SHAPES = [(7, 3), (5, 2, 3), (2, 3, 4, 5), (3, 2, 2, 2, 3)]


def exact(x):
    wide = x.double().transpose(0, 1).reshape(x.shape[1], -1).numpy()
    mean = wide.mean(1)
    return mean, ((wide - mean[:, None]) ** 2).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("last", [False, True])
def test_local_moments_keep_all_digits_of_float32(shape, offset, last):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + offset
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    mean, squares = local_moments(x)
    assert mean.dtype == squares.dtype == np.float64
    np.testing.assert_allclose(mean, exact(x)[0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(squares, exact(x)[1], rtol=1e-6)


def test_a_constant_has_no_deviation():
    mean, squares = local_moments(torch.full((64, 2, 9), 1e6 / 3))
    np.testing.assert_allclose(mean, float(torch.tensor(1e6 / 3)), rtol=1e-12)
    np.testing.assert_allclose(squares, 0, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(
    grid=st.sampled_from(["2", "3", "2x2"]),
    cuts=st.sampled_from([None, 0.0, 0.3]),
    offset=st.sampled_from([0.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_parts_together_are_the_whole(grid, cuts, offset, seed):
    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset

    def rank_main():
        axes = Grid(grid).axes
        if cuts is not None:  # some ranks may hold nothing
            axes[0].move((0.0, *[cuts] * (axes[0].size - 1), 1.0))
        part = x
        for axis, dim in zip(axes, (0, 2), strict=False):
            part = part.narrow(dim, axis.start(x.shape[dim]), axis.part(x.shape[dim]))
        nothing = np.zeros(3)
        return combine(part.numel() // 3, *(local_moments(part) if part.numel() else (nothing, nothing)), axes)

    sizes = [int(one) for one in grid.split("x")]
    results = simulate(int(np.prod(sizes)), rank_main)
    for count, mean, squares in results:
        assert count == 24
        np.testing.assert_array_equal(mean, results[0][1])
        np.testing.assert_array_equal(squares, results[0][2])
        np.testing.assert_allclose(mean, exact(x)[0], rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(squares, exact(x)[1], rtol=1e-12 if offset == 0 else 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_channel_sums(shape):
    generator = torch.Generator().manual_seed(2)
    x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mean, var = torch.rand(2, shape[1], generator=generator, dtype=torch.float64)
    dims = [i for i in range(x.dim()) if i != 1]
    view = (-1, *[1] * (x.dim() - 2))
    xhat = (x - mean.view(view)) / (var + 0.1).sqrt().view(view)
    dw, db = channel_sums(dy, x, mean, var, 0.1)
    torch.testing.assert_close(dw, (dy * xhat).sum(dims))
    torch.testing.assert_close(db, dy.sum(dims))


def test_a_rank_without_numbers_adds_nothing_to_large_ones():
    """Its mean is any number, and the square of its distance to the others' may be infinite: that times 0 is no number."""

    def rank_main():
        (axis,) = Grid("2").axes
        axis.move((0.0, 0.0, 1.0))
        x = torch.full((axis.part(4), 3), 1e200, dtype=torch.float64)
        means = np.full(3, 1e200) if len(x) else np.zeros(3)
        return combine(len(x), means, np.zeros(3), (axis,))[2].tolist(), var(x, 0, over=(axis,)).tolist()

    assert simulate(2, rank_main) == [([0.0] * 3, [0.0] * 3)] * 2
