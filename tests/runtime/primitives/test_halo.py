"""The halo exchange alone: any rows from anywhere, and its adjoint, against the definition on the whole tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, simulate
from autopar.runtime.primitives.halo import halo


@st.composite
def cases(draw):
    """Ranks, cuts, extent, split dim, and what every rank wants: overlapping, disjoint, empty, or all padding."""
    ranks = draw(st.integers(1, 6))
    extent = draw(st.integers(0, 12))
    cuts = (0.0, *sorted(draw(st.floats(0, 1)) for _ in range(ranks - 1)), 1.0)
    wanted = []
    for _ in range(ranks):
        start = draw(st.integers(-4, extent + 3))
        wanted.append((start, start + draw(st.integers(0, extent + 3))))
    return ranks, cuts, extent, draw(st.integers(0, 2)), wanted


@settings(deadline=None, max_examples=50)
@given(case=cases(), value=st.sampled_from([0.0, 2.5]))
def test_any_rows_and_the_adjoint(case, value):
    ranks, cuts, extent, dim, wanted = case
    shape = [2, 3, 2]
    shape[dim] = extent
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    margin = torch.full([24 if i == dim else n for i, n in enumerate(shape)], value, dtype=torch.float64)
    padded = torch.cat([margin, x, margin], dim)
    dys = []
    for start, stop in wanted:
        shape[dim] = stop - start
        dys.append(torch.randn(shape, generator=generator, dtype=torch.float64))

    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        axis.move(cuts)
        low, high = axis.bounds(extent)[axis.index : axis.index + 2]
        local = x.narrow(dim, low, high - low).clone().requires_grad_()
        y = halo(local, dim, axis, extent, wanted, value)
        (dx,) = torch.autograd.grad(y, local, dys[axis.index])
        return y.detach(), local.detach(), dx

    results = simulate(ranks, rank_main)
    wanted_dx = torch.zeros_like(padded)
    for (start, stop), dy, (y, _, _) in zip(wanted, dys, results, strict=True):
        assert torch.equal(y, padded.narrow(dim, 24 + start, stop - start))
        wanted_dx.narrow(dim, 24 + start, stop - start).add_(dy)
    dx = torch.cat([dx for _, _, dx in results], dim)
    torch.testing.assert_close(dx, wanted_dx.narrow(dim, 24, extent), rtol=1e-12, atol=1e-12)
    if value == 0:  # then the exchange is linear
        left = sum((y * dy).sum() for (y, _, _), dy in zip(results, dys, strict=True))
        right = sum((local * dx).sum() for _, local, dx in results)
        norms = [sum((one**2).sum() for one in many) ** 0.5 for many in zip(*results, strict=True)]
        norm_dy = sum((dy**2).sum() for dy in dys) ** 0.5
        assert abs(left - right) <= 1e-12 * max(norms[0] * norm_dy, norms[1] * norms[2])


@pytest.mark.parametrize("index", [0, 1])
def test_only_ranks_that_share_rows_exchange_messages(index):
    """With messages between the first two ranks only, the third may be anywhere else in its program."""

    def rank_main():
        axis = Grid("3").axes[0]
        if axis.index == 2:
            return None
        return halo(torch.full((2,), float(axis.index)), 0, axis, 6, [(0, 3), (1, 4), (4, 6)]).tolist()

    assert simulate(3, rank_main)[index] == [[0, 0, 1], [0, 1, 1]][index]
