"""Batch norm over split batches and volumes equals torch's on the whole batch: values, gradients, statistics."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import ProgramMismatch
from autopar.runtime import Grid, batch_norm, simulate


def reference(x, weight, bias, dy, momentum=0.3):
    x = x.clone().requires_grad_()
    given = [None if p is None else p.clone().requires_grad_() for p in (weight, bias)]
    running = torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)
    y = F.batch_norm(x, *running, *given, True, momentum, 1e-5)
    y.backward(dy)
    return y.detach(), x.grad, [None if p is None else p.grad for p in given], running


def distributed(grid, x, weight, bias, dy, cuts=None, momentum=0.3):
    """Batch split over the first axis, the last dim over the second (if any); whole tensors put together again."""

    def rank_main():
        axes = Grid(grid).axes
        axes[0].move(cuts)
        places = [slice(None)] * x.dim()
        for axis, dim in zip(axes, (0, x.dim() - 1), strict=False):
            bounds = axis.bounds(x.shape[dim])
            places[dim] = slice(bounds[axis.index], bounds[axis.index + 1])
        local = x[tuple(places)].clone()
        if axes[0].index % 2:
            local = local.transpose(0, 1).contiguous().transpose(0, 1)  # in another memory layout
        local.requires_grad_()
        mine = [None if p is None else p.clone().requires_grad_() for p in (weight, bias)]
        running = torch.zeros(x.shape[1], dtype=x.dtype), torch.ones(x.shape[1], dtype=x.dtype)
        y = batch_norm(local, *mine, *running, momentum, 1e-5, over=axes)
        y.backward(dy[tuple(places)].transpose(0, 1).clone().transpose(0, 1))
        return places, y.detach(), local.grad, [None if p is None else p.grad for p in mine], running

    size = 1
    for part in grid.split("x"):
        size *= int(part)
    results = simulate(size, rank_main)
    y, dx = torch.empty_like(x), torch.empty_like(x)
    for places, part, grad, _, _ in results:
        y[tuple(places)] = part
        dx[tuple(places)] = grad
    grads = [None if given is None else sum(r[3][i] for r in results) for i, given in enumerate((weight, bias))]
    for result in results:
        for a, b in zip(result[4], results[0][4], strict=True):
            assert torch.equal(a, b), "running statistics differ between ranks"
    return y, dx, grads, results[0][4]


@settings(deadline=None, max_examples=40)
@given(
    grid=st.sampled_from(["1", "2", "3", "2x2", "3x2"]),
    shape=st.sampled_from([(4, 3), (5, 2, 3), (2, 3, 4), (1, 3, 2, 5), (3, 2, 2, 2, 3)]),
    affine=st.booleans(),
    cuts=st.booleans(),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_batch_norm_is_that_of_torch(grid, shape, affine, cuts, offset):
    generator = torch.Generator().manual_seed(4)
    if grid.count("x") and len(shape) < 3:
        shape = (*shape, 3)
    x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x += offset
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64) if affine else (None, None)
    first = int(grid.split("x")[0])
    moved = (0.0, *[0.75] * (first - 1), 1.0) if cuts else None  # with three ranks the second holds nothing
    wanted = reference(x, weight, bias, dy)
    got = distributed(grid, x, weight, bias, dy, moved)
    tolerance = 1e-11 if offset == 0 else 1e-7
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_float32_with_a_large_mean_keeps_its_variance():
    """A difference of large sums would lose all digits here: mean 1e4, variance 1, in float32."""
    x = torch.randn(6, 2, 50, generator=torch.Generator().manual_seed(5)) + 1e4
    exact = x.double().transpose(0, 1).reshape(2, -1).var(1)
    _, _, _, (_, var) = distributed("3", x, None, None, torch.zeros_like(x), momentum=1.0)
    torch.testing.assert_close(var.double(), exact, rtol=1e-3, atol=0)  # float32 means round at 1e-3


def test_without_axes_it_is_torch_to_the_bit():
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(6))
    weight, bias = torch.rand(2, 3)
    ours, theirs = (torch.zeros(3), torch.ones(3)), (torch.zeros(3), torch.ones(3))
    assert torch.equal(batch_norm(x, weight, bias, *ours), F.batch_norm(x, *theirs, weight, bias, True))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_running_statistics_may_be_updated_before_backward():
    """They are no part of the graph: changing them in place must not spoil the gradient."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def rank_main():
        axis = Grid("2").axes[0]
        local = x[2 * axis.index : 2 * axis.index + 2].clone().requires_grad_()
        mean, var = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
        y = batch_norm(local, None, None, mean, var, over=(axis,))
        z = batch_norm(y, None, None, mean, var, over=(axis,))
        mean.fill_(9)
        (z**3).sum().backward()
        return local.grad

    whole = x.clone().requires_grad_()
    (F.batch_norm(F.batch_norm(whole, None, None, training=True), None, None, training=True) ** 3).sum().backward()
    torch.testing.assert_close(torch.cat(simulate(2, rank_main)), whole.grad, rtol=1e-10, atol=1e-12)


def test_bfloat16_with_float32_parameters():
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(8))
    wanted = F.batch_norm(x.bfloat16().float(), None, None, training=True)

    def rank_main():
        axis = Grid("2").axes[0]
        local = x[2 * axis.index : 2 * axis.index + 2].bfloat16().requires_grad_()
        y = batch_norm(local, torch.ones(3), torch.zeros(3), torch.zeros(3), torch.ones(3), over=(axis,))
        y.sum().backward()
        return y.detach(), local.grad

    results = simulate(2, rank_main)
    assert {t.dtype for result in results for t in result} == {torch.bfloat16}
    torch.testing.assert_close(torch.cat([y for y, _ in results]).float(), wanted, rtol=2e-2, atol=2e-2)


def test_a_single_value_per_channel_is_refused():
    def rank_main():
        axis = Grid("2").axes[0]
        return batch_norm(torch.ones(1 - axis.index, 3), None, None, None, None, over=(axis,))

    with pytest.raises(ProgramMismatch, match="1 values per channel"):
        simulate(2, rank_main)
