"""Softmax and its logarithm over a split dim equal torch's: values, gradients, masked rows, large numbers; and few messages."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, log_softmax, simulate, softmax

PAIRS = {"softmax": (softmax, F.softmax), "log_softmax": (log_softmax, F.log_softmax)}


def split_run(x, dim, dy, mine, ranks, cuts=None):
    def rank_main():
        (axis,) = Grid(str(ranks)).axes
        axis.move(cuts)
        low, high = axis.bounds(x.shape[dim])[axis.index :][:2]
        part = x.narrow(dim, low, high - low).clone().requires_grad_()
        y = mine(part, dim, over=(axis,))
        y.backward(dy.narrow(dim, low, high - low))
        return y.detach(), part.grad

    parts = simulate(ranks, rank_main)
    return tuple(torch.cat([part[i] for part in parts], dim) for i in (0, 1))


def whole_run(x, dim, dy, theirs):
    x = x.clone().requires_grad_()
    y = theirs(x, dim)
    y.backward(dy)
    return y.detach(), x.grad


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(PAIRS)),
    shape=st.sampled_from([(5,), (3, 4), (2, 7, 3), (0, 4)]),
    dim=st.integers(-1, 1),
    setting=st.sampled_from(
        [(2, None), (2, (0.0, 0.3, 1.0)), (2, (0.0, 0.0, 1.0)), (3, None), (3, (0.0, 0.5, 0.5, 1.0))]
    ),
    scale=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_split_equals_whole(name, shape, dim, setting, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    dim = dim if dim < len(shape) and shape[dim] else -1
    x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    mine, theirs = PAIRS[name]
    for found, expected in zip(
        split_run(scale * x, dim, dy, mine, *setting), whole_run(scale * x, dim, dy, theirs), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ranks", [2, 5])
def test_masked_rows(ranks):
    """Masked by minus infinity, where a whole part may be masked, and by the least number, where a whole row may be."""
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    x[0, :2] = -math.inf
    x[1, 1:] = -math.inf
    x[2, :] = torch.finfo(torch.float32).min
    x[3, :] = -math.inf
    dy = torch.ones_like(x)
    found, expected = split_run(x, 1, dy, softmax, ranks), whole_run(x, 1, dy, F.softmax)
    assert torch.allclose(found[0], expected[0], equal_nan=True)
    assert found[0][3].isnan().all()
    assert torch.allclose(found[1][:3], expected[1][:3], atol=1e-6)


def test_one_message_each_way(monkeypatch):
    from autopar.runtime.transport.threads import ThreadComm

    calls = []
    for name in ("all_gather", "all_reduce", "all_to_all", "exchange"):
        sound = getattr(ThreadComm, name)

        def noted(self, *given, name=name, sound=sound):
            calls.append((self.rank, name))
            return sound(self, *given)

        monkeypatch.setattr(ThreadComm, name, noted)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    split_run(x, 1, torch.ones_like(x), softmax, 2)
    assert sorted(calls) == [(rank, name) for rank in (0, 1) for name in ("all_gather", "all_reduce")]


def test_in_another_dtype():
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).bfloat16()

    def rank_main():
        (axis,) = Grid("2").axes
        part = x[:, 3 * axis.index : 3 * axis.index + 3]
        return softmax(part, 1, over=(axis,)), softmax(part, 1, over=(axis,), dtype=torch.float32)

    parts = simulate(2, rank_main)
    narrow, wide = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(wide, F.softmax(x, 1, dtype=torch.float32), atol=1e-6)
    assert torch.allclose(narrow.float(), wide, atol=1e-2)
