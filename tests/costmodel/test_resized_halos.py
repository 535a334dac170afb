"""Halos of interpolations and adaptive poolings: what is priced is what the runtime fetches, to a row of rounding."""

import itertools

import pytest
import torch

from autopar.costmodel.compute import halo_rows
from autopar.ir.layout import even_bounds
from autopar.ops.record.op import Sample, T
from autopar.ops.registry import registry
from autopar.proof.reference import whole_of
from autopar.runtime.windowed.interpolation import Interpolate

# target, arguments behind the operand for m rows, mode of the runtime, corners aligned
RESIZES = [
    ("aten.upsample_bilinear2d.vec", lambda m: ((m, 1), False, None), "bilinear", False),
    ("aten.upsample_bilinear2d.vec", lambda m: ((m, 1), True, None), "bilinear", True),
    ("aten.upsample_bicubic2d.vec", lambda m: ((m, 1), False, None), "bicubic", False),
    ("aten.upsample_nearest2d.vec", lambda m: ((m, 1), None), "nearest", None),
    ("aten._upsample_nearest_exact2d.vec", lambda m: ((m, 1), None), "nearest-exact", None),
    ("aten.adaptive_avg_pool2d.default", lambda m: ((m, 1),), "area", None),
]


@pytest.mark.parametrize(("target", "arguments", "mode", "align"), RESIZES)
def test_priced_rows_are_fetched_rows(target, arguments, mode, align):
    op = registry()[target]
    exact = 0
    settings = list(itertools.product((5, 8, 13), (3, 8, 20), (2, 3, 4)))
    for n, m, parts in settings:
        if m < parts:
            continue
        call = whole_of(op, Sample((T((1, 1, n, 1)), *arguments(m)), target=target)).call
        priced, _ = halo_rows(n, m, parts, op.rule(call).windows["h"])
        reach = Interpolate((m, 1), None, mode, align, torch.float64).reach(0, n)
        fetched = 0
        for own, made in zip(
            itertools.pairwise(even_bounds(n, parts)), itertools.pairwise(even_bounds(m, parts)), strict=True
        ):
            low, high = reach.reads(n, made)
            fetched = max(fetched, sum(not own[0] <= row < own[1] for row in range(low, high)))
        assert abs(priced - fetched) <= 1, (n, m, parts)
        exact += priced == fetched
    assert exact >= 0.4 * len(settings)
