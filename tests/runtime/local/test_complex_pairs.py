"""Complex numbers as pairs, also on a rank that has none."""

import pytest
import torch

from autopar.runtime import view_as_real


@pytest.mark.parametrize("rows", [0, 3])
def test_the_gradient_of_pairs_that_are_summed(rows):
    x = torch.randn(rows, 4, dtype=torch.complex128, requires_grad=True)
    pairs = view_as_real(x)
    assert torch.equal(pairs, torch.view_as_real(x))
    pairs.sum(2).square().sum().backward()
    size = 2 * (x.real + x.imag).detach()
    torch.testing.assert_close(x.grad, torch.complex(size, size))
