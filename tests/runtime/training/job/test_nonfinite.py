"""Which tensors are finite, for every kind of tensor, and what is said of those that are not."""

import pytest
import torch

from autopar.runtime import simulate
from autopar.runtime.training.job import nonfinite
from autopar.runtime.transport.world import default_world

INF, NAN = float("inf"), float("nan")
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_one_element_is_found(dtype, value):
    tensor = torch.full((7, 5), 3.0).to(dtype)
    assert nonfinite.all_finite([tensor, torch.zeros(0, dtype=dtype)])
    tensor[3, 2] = complex(0.0, value) if dtype.is_complex else value
    assert not nonfinite.is_finite(tensor)
    assert not nonfinite.all_finite([torch.ones(3), tensor])


@pytest.mark.parametrize("dtype", KINDS)
def test_large_finite_elements_whose_sum_overflows_are_finite(dtype):
    largest = torch.finfo(dtype).max
    tensor = torch.full((99,), largest, dtype=dtype)
    assert nonfinite.all_finite([tensor, tensor])


def test_infinities_of_both_signs_do_not_cancel():
    assert not nonfinite.all_finite([torch.tensor([INF, -INF]), torch.tensor([-INF])])


def test_sparse_gradients():
    sparse = torch.sparse_coo_tensor([[1, 1]], [1.0, INF], (4,), check_invariants=True)
    assert not nonfinite.all_finite([sparse])


def test_ranks_say_together_what_they_have_found():
    said = []

    def rank():
        comm = default_world()
        first, second = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        first.grad = torch.tensor([NAN, INF if comm.rank else 0.0])
        said.append(nonfinite.found(comm, NAN, {"first": first, "second": second}))

    simulate(2, rank)
    assert said == [said[0]] * 2
    assert said[0] == [
        "the loss is nan",
        "the gradient of first has 1 NaN of 2 elements, on rank 0",
        "the gradient of first has 1 NaN and 1 infinite of 2 elements, on rank 1",
    ]
