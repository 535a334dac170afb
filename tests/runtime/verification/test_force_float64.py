"""In a float64 run, what a model makes in float32 by itself is float64."""

import torch
import torch.nn.functional as F

from autopar.runtime.verification.force_float64 import ForceFloat64, as_written


def test_casts_and_new_tensors_become_float64():
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with ForceFloat64():
        waves = (torch.arange(4) * 0.1).sin()
        angles = torch.arange(2)[:, None] * waves.float()
        y = F.linear(angles + torch.zeros(4), weight).to(torch.float32)
    assert {one.dtype for one in (waves, angles, y)} == {torch.float64}
    y.sum().backward()
    torch.testing.assert_close(weight.grad, angles.sum(0).expand(3, 4))


def test_views_and_whole_numbers_stay():
    given = torch.ones(2)
    with ForceFloat64():
        assert given.split(1)[0].dtype == torch.float32
        assert torch.arange(3).dtype == torch.int64


def test_what_is_computed_of_float32_and_of_whole_numbers_is_float64():
    given = torch.tensor([0.1, 0.7])
    with ForceFloat64():
        assert torch.equal(given / 3, given.double() / 3)
        assert torch.equal(torch.arange(3) / 7, torch.arange(3).double() / 7)


def test_what_asks_for_no_dtype_is_made_in_float64():
    with ForceFloat64():
        assert torch.equal(torch.linspace(0, 1, 4), torch.linspace(0, 1, 4, dtype=torch.float64))
        least = torch.finfo(torch.float64).min
        assert torch.full((), least).item() == least


def test_numbers_of_the_text_are_rounded_as_the_program_holds_them():
    with ForceFloat64(written=True):
        found = [torch.tensor([0.1]), torch.tensor([0.1], dtype=torch.float64)]
    expected = torch.tensor([0.1]).double()
    assert all(torch.equal(one, expected) for one in found)
    given = {
        "lifted_tensor_0": torch.tensor([0.1], dtype=torch.float64),
        "table": torch.tensor([0.1], dtype=torch.float64),
    }
    held = dict(as_written(given.items()))
    assert torch.equal(held["lifted_tensor_0"], expected)
    assert held["table"] is given["table"]


def test_grouped_products_have_a_float64_form():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([2, 2, 6, 7], dtype=torch.int32)
    seed = torch.randn(7, 5, dtype=torch.float64)
    with ForceFloat64():
        y = F.grouped_mm(x, weight, offs=ends)
        found = torch.autograd.grad(y, (x, weight), seed)
    group = torch.tensor([0, 0, 2, 2, 2, 2, 3])
    expected = torch.einsum("rk,rkn->rn", x, weight[group])
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, weight), seed))
