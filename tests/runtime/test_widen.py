"""In a float64 run, what a model makes in float32 by itself is float64."""

import torch
import torch.nn.functional as F

from autopar.runtime.widen import Widened


def test_casts_and_new_tensors_become_float64():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with Widened():
        waves = (torch.arange(4) * 0.1).sin()
        angles = torch.arange(2)[:, None] * waves.float()
        y = F.linear(angles + torch.zeros(4), weight).to(torch.float32)
    assert {one.dtype for one in (waves, angles, y)} == {torch.float64}
    y.sum().backward()
    torch.testing.assert_close(weight.grad, angles.sum(0).expand(3, 4))


def test_float32_tensors_that_are_given_stay():
    given = torch.ones(2)
    with Widened():
        assert (given * 2).dtype == torch.float32
        assert torch.arange(3).dtype == torch.int64
        assert given.split(1)[0].dtype == torch.float32


def test_grouped_products_have_a_float64_form():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([2, 2, 6, 7], dtype=torch.int32)
    seed = torch.randn(7, 5, dtype=torch.float64)
    with Widened():
        y = F.grouped_mm(x, weight, offs=ends)
        found = torch.autograd.grad(y, (x, weight), seed)
    group = torch.tensor([0, 0, 2, 2, 2, 2, 3])
    expected = torch.einsum("rk,rkn->rn", x, weight[group])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, weight), seed))
