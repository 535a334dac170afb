"""Weight gradients that are computed apart from backward are those that backward computes, and only they are deferred."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.local.recompute import recompute
from autopar.runtime.pipeline.deferred_weights import DeferredWeights

DRAW = torch.Generator().manual_seed(0)


def normal(*shape, grad=True):
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64).requires_grad_(grad)


# name: weights, input, call, and which weights B leaves to W
CASES = {
    "linear": ([normal(4, 3), normal(4)], normal(2, 5, 3), F.linear, "wb"),
    "linear of one row": ([normal(4, 3), normal(4)], normal(3), lambda x, w, b: F.linear(x, w, bias=b), "wb"),
    "of an input without a gradient": ([normal(4, 3)], normal(2, 3, grad=False), F.linear, "w"),
    "product": ([normal(3, 4), normal(4)], normal(2, 5, 3), lambda x, w, b: x @ w + b, "w"),
    "turned": ([normal(4, 3)], normal(2, 3), lambda x, w: torch.matmul(x, w.t()), "w"),
    "gathered": ([normal(2, 3), normal(2, 3)], normal(5, 3), lambda x, a, b: F.linear(x, torch.cat([a, b])), "wb"),
    "used twice": ([normal(3, 3)], normal(2, 3), lambda x, w: F.linear(torch.tanh(F.linear(x, w)), w), "w"),
    "turned and used twice": ([normal(3, 3)], normal(2, 3), lambda x, w: twice(x, (w * w).T), "w"),
    "used otherwise too": ([normal(3, 3)], normal(2, 3), lambda x, w: otherwise(x, w * w), ""),
    "frozen weight": ([normal(4, 3, grad=False), normal(4)], normal(2, 3), F.linear, " b"),
    "frozen bias": ([normal(4, 3), normal(4, grad=False)], normal(2, 3), F.linear, "w "),
    "no features": ([normal(0, 3), normal(0)], normal(2, 2, 3), F.linear, "wb"),
    "nothing to read": ([normal(0, 4)], normal(2, 2, 0), lambda x, w: x @ w, "w"),
    "conv1d": ([normal(4, 3, 3), normal(4)], normal(2, 3, 6), lambda x, w, b: F.conv1d(x, w, b, padding=1), "wb"),
    "conv2d": (
        [normal(4, 1, 3, 2), normal(4)],
        normal(2, 2, 6, 5),
        lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        "wb",
    ),
    "conv3d": ([normal(2, 2, 2, 2, 2)], normal(1, 2, 3, 4, 3), lambda x, w: F.conv3d(x, w, stride=2), "w"),
    "same padding": ([normal(2, 3, 3)], normal(1, 3, 4), lambda x, w: F.conv1d(x, w, padding="same"), ""),
    "an operand made of activations": ([normal(3, 3)], normal(3, 3), lambda x, w: x @ torch.tanh(x @ w), "w"),
    "computed again": ([normal(4, 3)], normal(2, 3), lambda x, w: recompute(lambda y: F.linear(torch.sin(y), w), x), "w"),
    "computed again, turned": ([normal(3, 4)], normal(2, 3), lambda x, w: recompute(lambda y: F.linear(y, w.T), x), ""),
    "a plain checkpoint": (
        [normal(4, 3)],
        normal(2, 3),
        lambda x, w: checkpoint(lambda y: F.linear(torch.sin(y), w), x, use_reentrant=False),
        "w",
    ),
}  # fmt: skip


def twice(x, w):
    return torch.tanh(x @ w) @ w


def otherwise(x, w):
    return x @ w + w.sum() ** 2


@pytest.mark.parametrize("name", CASES)
def test_deferred_gradients_are_those_of_backward(name):
    weights, x, call, left = CASES[name]
    with drawing(0, 1):
        result = call(x, *weights)
        seed = torch.randn(result.shape, generator=DRAW, dtype=torch.float64)
        trained = [one for one in (x, *weights) if one.requires_grad]
        expected = torch.autograd.grad(result, trained, seed)
        leaves = [one.detach().requires_grad_(one.requires_grad) for one in (x, *weights)]
        deferred = DeferredWeights([leaf for leaf in leaves[1:] if leaf.requires_grad])
        with deferred.watching():
            result = call(*leaves)
        torch.testing.assert_close(result, call(x, *weights), rtol=1e-12, atol=1e-12)
        deferred.backward([result], [seed])
    without = [leaf.grad is None for leaf in leaves[1:]]
    expected_without = [i < len(left) and left[i] != " " for i in range(len(weights))]
    assert [w or not leaf.requires_grad for w, leaf in zip(without, leaves[1:], strict=True)] == [
        w or not leaf.requires_grad for w, leaf in zip(expected_without, leaves[1:], strict=True)
    ]
    if x.requires_grad:
        torch.testing.assert_close(leaves[0].grad, expected[0], rtol=1e-12, atol=1e-12)
    deferred.finish()
    found = [leaf.grad for leaf in leaves if leaf.requires_grad]
    torch.testing.assert_close(found, list(expected), rtol=1e-11, atol=1e-11)


def test_what_is_no_weight_is_left_alone():
    x, other = normal(2, 3), normal(3, 3)
    deferred = DeferredWeights([])
    with deferred.watching():
        y = x @ other
        with torch.no_grad():
            F.linear(x, other)
    assert "Deferred" not in type(y.grad_fn).__name__
