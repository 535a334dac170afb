"""Poolings that round their extent up, or divide by a number of the caller's: extents for all small windows, values when split."""

import itertools

import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, avg_pool, max_pool, simulate
from autopar.runtime.windowed.receptive_field import StridedWindow


def test_extents_are_torchs():
    count = 0
    for n, k, s, d in itertools.product(range(1, 11), range(1, 5), range(1, 5), (1, 2)):
        for p in range(k // 2 + 1):
            if n + 2 * p >= d * (k - 1) + 1:
                rows = F.max_pool1d(torch.zeros(1, 1, n), k, s, p, d, ceil_mode=True).shape[-1]
                assert StridedWindow(k, s, p, d, ceil=True).extent(n) == rows, (n, k, s, p, d)
                count += 1
    assert count > 500


@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from([(2, 1, 7, 5), (1, 2, 6, 8), (1, 1, 9, 3)]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.integers(1, 4),
    ceil=st.booleans(),
    kind=st.sampled_from(["max", "counted", "real", "divided"]),
    setting=st.sampled_from([("2", {0: 2}), ("3", {0: 3}), ("2x2", {0: 2, 1: 3})]),
    data=st.data(),
)
def test_split_equals_whole(shape, kernel, stride, ceil, kind, setting, data):
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    assume(all(n + 2 * p >= k for n, p, k in zip(shape[2:], padding, kernel, strict=True)))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    more = {"counted": {}, "real": {"count_include_pad": False}, "divided": {"divisor_override": 3}, "max": {}}[kind]
    theirs, mine = (F.max_pool2d, max_pool) if kind == "max" else (F.avg_pool2d, avg_pool)
    y = theirs(x, kernel, stride, padding, ceil_mode=ceil, **more)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    y.backward(dy)

    def rank_main():
        axes = Grid(setting[0]).axes
        split = {dim: axes[i] for i, dim in setting[1].items()}

        def place(whole):
            rows = {dim: axis.bounds(whole.shape[dim])[axis.index :][:2] for dim, axis in split.items()}
            return tuple(slice(*rows[dim]) if dim in rows else slice(None) for dim in range(4))

        part = x.detach()[place(x)].clone().requires_grad_()
        over = {dim: (axis, shape[dim]) for dim, axis in split.items()}
        z = mine(part, kernel, stride, padding, ceil_mode=ceil, over=over, **more)
        assert z.shape == y[place(y)].shape
        z.backward(dy[place(y)])
        return torch.allclose(z, y[place(y)], atol=1e-13), torch.allclose(part.grad, x.grad[place(x)], atol=1e-13)

    assert set(simulate(2 if setting[0] == "2" else 3 if setting[0] == "3" else 4, rank_main)) == {(True, True)}
