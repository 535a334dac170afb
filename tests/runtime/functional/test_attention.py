"""Attention whose rows or keys are split is torch's, gradients included, whatever the mask."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime import Grid, all_sum, attention, drawing, simulate
from autopar.runtime import attention as function
from autopar.runtime.functional.model_random import ProgramRandom

module = __import__("sys").modules[function.__module__]


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def expected(given, cotangent, **options):
    leaves = [one.clone().requires_grad_() if one.is_floating_point() else one for one in given]
    with drawing(0, 0), ProgramRandom():
        y = F.scaled_dot_product_attention(*leaves, **options)
    grads = torch.autograd.grad(y, [one for one in leaves if one.requires_grad], cotangent)
    return y.detach(), grads


@settings(deadline=None, max_examples=30)
@given(
    t=st.integers(1, 6),
    s=st.integers(1, 6),
    heads=st.sampled_from([(1, 1), (2, 1), (2, 3)]),
    mask=st.sampled_from(["", "causal", "bool", "float", "row"]),
    dropout=st.sampled_from([0.0, 0.5]),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    scores=st.sampled_from([1, 2**22]),
)
def test_rows_and_keys_split(t, s, heads, mask, dropout, cuts, scores):
    h, r = heads
    q, k, v, bias, cotangent = tensors((2, h * r, t, 4), (2, h, s, 4), (2, h, s, 3), (h * r, t, s), (2, h * r, t, 3))
    masks = {"bool": (bias[0] > -0.5,), "float": (bias,), "row": (bias[:, :1],)}
    given_ = [q, k, v, *masks.get(mask, ())]
    options = {"is_causal": mask == "causal", "enable_gqa": r > 1, "dropout_p": dropout}
    y, grads = expected(given_, cotangent, **options)

    def rank():
        rows, keys = Grid("rows=2,keys=2").axes
        rows.move((0.0, cuts[0], 1.0))
        keys.move((0.0, cuts[1], 1.0))
        low, high = rows.bounds(t)[rows.index : rows.index + 2]
        left, right = keys.bounds(s)[keys.index : keys.index + 2]
        parts = [q[:, :, low:high], k[:, :, left:right], v[:, :, left:right]]
        places = [(slice(None), slice(None), slice(low, high)), *[(slice(None), slice(None), slice(left, right))] * 2]
        for one in masks.get(mask, ()):
            places.append(
                (..., slice(low, high) if one.shape[-2] > 1 or mask != "row" else slice(None), slice(left, right))
            )
            parts.append(one[places[-1]])
        leaves = [one.clone().requires_grad_() if one.is_floating_point() else one for one in parts]
        with drawing(0, 0):
            part = attention(*leaves, over={2: (rows, t), 3: (keys, s)}, **options)
        found = all_sum(part, keys)
        wanted = [one for one in leaves if one.requires_grad]
        local = torch.autograd.grad(found, wanted, cotangent[:, :, low:high], materialize_grads=True)
        whole = [torch.zeros_like(one) for one, leaf in zip(given_, leaves, strict=True) if leaf.requires_grad]
        for into, place, grad in zip(whole, places, local, strict=False):
            into[place] += grad
        return (low, high), found.detach(), whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SCORES", scores)
        patch.setattr(module, "_ROWS", (1, 4))
        results = simulate(4, rank)
    for (low, high), found, _ in results:
        torch.testing.assert_close(found, y[:, :, low:high], rtol=1e-12, atol=1e-13)
    for i, wanted in enumerate(grads):
        torch.testing.assert_close(sum(whole[i] for _, _, whole in results), wanted, rtol=1e-11, atol=1e-12)


def test_rows_that_attend_to_nothing_are_zero():
    q, k, v, cotangent = tensors((1, 1, 3, 2), (1, 1, 4, 2), (1, 1, 4, 2), (1, 1, 3, 2))
    mask = torch.tensor([[True, False, False, True], [False] * 4, [False, True, True, False]])
    y, grads = expected([q, k, v, mask], cotangent)

    def rank():
        axis = Grid("2").axes[0]
        half = slice(2 * axis.index, 2 * axis.index + 2)
        leaves = [one.clone().requires_grad_() for one in (q, k[:, :, half], v[:, :, half])]
        found = all_sum(attention(*leaves, mask[:, half], over={3: (axis, 4)}), axis)
        return found.detach(), all_sum(torch.autograd.grad(found, leaves, cotangent)[0], axis)

    for found, dq in simulate(2, rank):
        assert torch.equal(found[0, 0, 1], torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(dq, grads[0], rtol=1e-12, atol=1e-13)


def test_large_scores_lose_nothing():
    q, k, v = tensors((1, 1, 3, 2), (1, 1, 4, 2), (1, 1, 4, 2))
    wanted = F.scaled_dot_product_attention(q * 1e3, k * 1e3, v)

    def rank():
        axis = Grid("2").axes[0]
        half = slice(2 * axis.index, 2 * axis.index + 2)
        return all_sum(attention(q * 1e3, k[:, :, half] * 1e3, v[:, :, half], over={3: (axis, 4)}), axis)

    for found in simulate(2, rank):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_reduced_precision_and_autocast():
    q, k, v = tensors(*[(2, 2, 8, 4)] * 3, dtype=torch.float32)
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with drawing(0, 0):
        half = attention(*(one.bfloat16() for one in (q, k, v)), is_causal=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = attention(q, k, v, is_causal=True)
    assert half.dtype == cast.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wanted, rtol=0, atol=0.02)
    torch.testing.assert_close(cast.float(), wanted, rtol=0, atol=0.02)
