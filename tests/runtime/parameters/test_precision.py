"""Another precision keeps what a number is: complex stays complex, integers stay as they are."""

import pytest
import torch
from torch import nn

from autopar.runtime.parameters.precision import in_precision, module_in_precision, precise


@pytest.mark.parametrize(
    ("dtype", "wanted", "found"),
    [
        (torch.float32, torch.float64, torch.float64),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.complex64, torch.float64, torch.complex128),
        (torch.complex128, torch.float32, torch.complex64),
        (torch.complex64, torch.bfloat16, torch.complex64),
        (torch.int64, torch.float64, torch.int64),
        (torch.bool, torch.float64, torch.bool),
        (torch.float32, None, torch.float32),
    ],
)
def test_dtypes(dtype, wanted, found):
    assert precise(dtype, wanted) == found


def test_imaginary_parts_are_kept():
    module = nn.Linear(2, 2)
    module.register_parameter("modes", nn.Parameter(torch.tensor([1 + 2j, 3 - 1j])))
    module.register_buffer("steps", torch.tensor(3))
    assert module_in_precision(module, torch.float64) is module
    assert module.modes.dtype == torch.complex128
    assert torch.equal(module.modes.detach(), torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128))
    assert (module.weight.dtype, module.steps.dtype) == (torch.float64, torch.int64)
    assert in_precision(module.modes, torch.float32).dtype == torch.complex64
