"""Interpolation over split dims equals torch's on the whole tensor, in every mode, and its gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from window_runs import compare, layouts, random

from autopar.errors import ConfigError
from autopar.runtime import Grid, Interpolate, interpolate, simulate
from autopar.runtime.windowed.interpolation import Resize

SMOOTH = {1: ("linear",), 2: ("bilinear", "bicubic"), 3: ("trilinear",)}


@st.composite
def resizings(draw):
    """Sizes up and down, or factors which do not give whole numbers, in one to three dims."""
    spatial = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 8)) for _ in range(spatial)]
    kind = draw(st.sampled_from(("nearest", "nearest-exact", "area", *SMOOTH[spatial])))
    align = draw(st.booleans()) if kind in SMOOTH[spatial] else None
    size = factors = None
    if draw(st.booleans()):
        size = tuple(draw(st.integers(1, 13)) for _ in range(spatial))
    else:
        factors = tuple(draw(st.sampled_from((0.5, 0.75, 1.0, 1.5, 2.0, 2.6, 3.0))) for _ in range(spatial))
        shape = [max(n, 2) for n in shape]
    layer = Interpolate(size, factors, kind, align, torch.float64)
    return (draw(st.integers(1, 2)), 2, *shape), layer, draw(layouts(spatial))


@settings(deadline=None, max_examples=40)
@given(case=resizings())
def test_every_mode(case):
    """Split dims by taps, others by torch; uneven and empty parts; far more or fewer rows than before."""
    shape, layer, layout = case

    def ours(x, layers, over):
        (one,) = layers
        return interpolate(x, one.size, one.scale_factor, one.kind, one.align_corners, over)

    compare(random(*shape), [layer], layout, ours)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 3000),
    m=st.integers(1, 3000),
    kind=st.sampled_from(("nearest", "nearest-exact", "linear")),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    align=st.booleans(),
)
def test_large_extents_pick_the_rows_that_torch_picks(n, m, kind, dtype, align):
    """Also where float32 makes a place fall on another row. Linear places agree but for a fused multiply-add."""
    align = align if kind == "linear" else None
    x = random(1, 1, n).to(dtype)
    wanted = F.interpolate(x, m, mode=kind, align_corners=align)

    def rank_main():
        axis = Grid("2").axes[0]
        low, high = axis.bounds(n)[axis.index : axis.index + 2]
        return interpolate(x[..., low:high], m, mode=kind, align_corners=align, over={2: (axis, n)})

    ulp = torch.finfo(dtype).eps * max(n, 8)  # of the largest place
    tolerance = 0.0 if kind != "linear" else 10 * ulp  # times the difference of two rows
    torch.testing.assert_close(torch.cat(simulate(2, rank_main), 2), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["nearest", "linear", "area"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_float32(kind, dtype):
    x = random(1, 2, 9).to(dtype)
    wanted = F.interpolate(x, 14, mode=kind)

    def rank_main():
        axis = Grid("3").axes[0]
        return interpolate(x[..., 3 * axis.index : 3 * axis.index + 3], 14, mode=kind, over={2: (axis, 9)})

    torch.testing.assert_close(torch.cat(simulate(3, rank_main), 2), wanted, rtol=1e-2, atol=1e-3)


def test_only_the_rows_that_are_read_are_wanted():
    """Twice as many rows by linear interpolation: one more row at each inner end."""
    twice = Resize("linear", 16, 0.0, False, True)
    assert [twice.reads(8, rows) for rows in itertools.pairwise((0, 4, 8, 12, 16))] == [(0, 3), (1, 5), (3, 7), (5, 8)]
    assert Resize("nearest", 16, 0.0, False, True).reads(8, (4, 8)) == (2, 4)
    assert Resize("area", 4, 0.0, False, True).reads(8, (1, 2)) == (2, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 4, "mode": "bilinear"}, "the modes are nearest, nearest-exact, area, linear"),
        ({"size": 4, "scale_factor": 2.0}, "exactly one"),
        ({}, "exactly one"),
        ({"size": (4, 4)}, r"size=\(4, 4\)\n  rule: there is one number for each of the 1 spatial dims"),
        ({"scale_factor": ()}, "one number for each"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ConfigError, match=message):
        interpolate(torch.ones(1, 1, 4), **given)
