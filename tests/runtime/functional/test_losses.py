"""The addends of a mean loss sum up to torch's loss, and their gradients are the parts of torch's gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, all_sum, cross_entropy, simulate


@st.composite
def cases(draw):
    return {
        "samples": draw(st.integers(1, 7)),
        "space": draw(st.sampled_from([(), (3,), (2, 2)])),
        "probabilities": draw(st.booleans()),
        "weighted": draw(st.booleans()),
        "smoothing": draw(st.sampled_from([0.0, 0.1])),
        "ignored": draw(st.integers(0, 3)),
        "ranks": draw(st.integers(1, 4)),
    }


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_cross_entropy_is_that_of_torch(case):
    generator = torch.Generator().manual_seed(1)
    classes = 5
    logits = torch.randn(case["samples"], classes, *case["space"], generator=generator, dtype=torch.float64)
    weight = torch.rand(classes, generator=generator, dtype=torch.float64) if case["weighted"] else None
    if case["probabilities"]:
        target = torch.rand(logits.shape, generator=generator, dtype=torch.float64).softmax(1)
    else:
        target = torch.randint(classes, (case["samples"], *case["space"]), generator=generator)
        target[: min(case["ignored"], case["samples"] - 1)] = -100  # whole samples, so some ranks have nothing else

    whole = logits.clone().requires_grad_()
    wanted = F.cross_entropy(whole, target, weight, label_smoothing=case["smoothing"])
    wanted.backward()

    def rank_main():
        axis = Grid(str(case["ranks"])).axes[0]
        bounds = axis.bounds(case["samples"])
        mine = slice(bounds[axis.index], bounds[axis.index + 1])
        local = logits[mine].clone().requires_grad_()
        addend = cross_entropy(local, target[mine], (axis,), weight, label_smoothing=case["smoothing"])
        loss = all_sum(addend, axis)
        loss.backward()
        return loss.detach(), local.grad

    results = simulate(case["ranks"], rank_main)
    for loss, _ in results:
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.cat([grad for _, grad in results]), whole.grad, rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(
    case=cases(), reduction=st.sampled_from(["mean", "sum", "none"]), spec=st.sampled_from(["2x1", "1x3", "2x2", "2x4"])
)
def test_samples_and_classes_split_over_two_axes(case, reduction, spec):
    """Five classes on up to four ranks; on some of them samples are ignored, or there are none."""
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(case["samples"], 5, *case["space"], generator=generator, dtype=torch.float64)
    weight = torch.rand(5, generator=generator, dtype=torch.float64) if case["weighted"] else None
    if case["probabilities"]:
        target = torch.rand(logits.shape, generator=generator, dtype=torch.float64).softmax(1).requires_grad_()
    else:
        target = torch.randint(5, (case["samples"], *case["space"]), generator=generator)
        target[: min(case["ignored"], case["samples"] - 1)] = -100
    options = {"label_smoothing": case["smoothing"], "reduction": reduction}
    whole = logits.clone().requires_grad_()
    wanted = F.cross_entropy(whole, target, weight, **options)
    cotangent = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    wanted.backward(cotangent)

    def rank_main():
        batch, model = Grid(spec).axes
        rows = slice(batch.start(case["samples"]), batch.start(case["samples"]) + batch.part(case["samples"]))
        columns = slice(model.start(5), model.start(5) + model.part(5))
        local = logits[rows, columns].clone().requires_grad_()
        mine = target[rows, columns].detach().requires_grad_() if case["probabilities"] else target[rows]
        weights = None if weight is None else weight[columns]
        addend = cross_entropy(local, mine, (batch,), weights, classes=(model, 5), **options)
        loss = all_sum(addend, model)
        if reduction != "none":
            loss = all_sum(loss, batch)
        loss.backward(cotangent[rows] if reduction == "none" else cotangent)
        places = (rows, columns)
        return places, loss.detach(), local.grad, mine.grad

    for (rows, columns), loss, grad, into in simulate(math.prod(map(int, spec.split("x"))), rank_main):
        torch.testing.assert_close(
            loss, (wanted[rows] if reduction == "none" else wanted).detach(), rtol=1e-12, atol=1e-13
        )
        torch.testing.assert_close(grad, whole.grad[rows, columns], rtol=1e-11, atol=1e-13)
        if into is not None:
            torch.testing.assert_close(into, target.grad[rows, columns], rtol=1e-11, atol=1e-13)


def test_large_logits_lose_nothing():
    logits, target = torch.tensor([[1e4, -1e4, 9.9e3, 1e4 - 1]], dtype=torch.float64), torch.tensor([3])
    wanted = F.cross_entropy(logits, target)

    def rank_main():
        axis = Grid("2").axes[0]
        half = slice(2 * axis.index, 2 * axis.index + 2)
        return all_sum(cross_entropy(logits[:, half], target, classes=(axis, 4)), axis)

    for loss in simulate(2, rank_main):
        torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)


def test_bfloat16_logits_are_summed_in_float32():
    logits = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.arange(6) * 9
    wanted = F.cross_entropy(logits.float(), target, reduction="none")

    def rank_main():
        axis = Grid("2").axes[0]
        half = slice(32 * axis.index, 32 * axis.index + 32)
        return all_sum(cross_entropy(logits[:, half], target, reduction="none", classes=(axis, 64)), axis)

    for loss in simulate(2, rank_main):
        assert loss.dtype == torch.bfloat16
        torch.testing.assert_close(loss.float(), wanted, rtol=2**-7, atol=0)


def test_samples_and_space_split_over_two_axes():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (3, 5), generator=generator)
    target[0, 3:] = 2
    target[1] = -1
    wanted = F.cross_entropy(logits, target, ignore_index=-1)

    def rank_main():
        batch, space = Grid("2x3").axes
        b, s = batch.bounds(3), space.bounds(5)
        rows, columns = slice(*b[batch.index : batch.index + 2]), slice(*s[space.index : space.index + 2])
        addend = cross_entropy(logits[rows, :, columns], target[rows, columns], (batch, space), ignore_index=-1)
        return all_sum(all_sum(addend, space), batch)

    for loss in simulate(6, rank_main):
        torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)


def test_nothing_but_ignored_samples_is_nan_as_in_torch():
    logits, target = torch.zeros(2, 3), torch.full((2,), -100)
    assert F.cross_entropy(logits, target).isnan()
    assert all(loss.isnan() for loss in simulate(2, lambda: cross_entropy(logits, target, Grid("2").axes)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_the_logits_is_kept(dtype):
    losses = simulate(2, lambda: cross_entropy(torch.zeros(2, 3, dtype=dtype), torch.tensor([0, 1]), Grid("2").axes))
    assert [loss.dtype for loss in losses] == [dtype, dtype]
