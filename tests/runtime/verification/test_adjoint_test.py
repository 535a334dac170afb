"""The adjoint test itself: its inner products, every cell of the table on grids of several axes, and wrong adjoints."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import CELLS, convert, layout_of, scatter

from autopar.ir.layout import Copied, Partial, Replicate, Shard, dual
from autopar.runtime import Grid, simulate
from autopar.runtime.primitives.conversion_table import conversion
from autopar.runtime.verification.adjoint_test import (
    TOLERANCE,
    conversion_error,
    differentiated,
    operator_error,
    products,
    relative,
    vector,
)

R, C, P, S = Replicate(), Copied(), Partial(), Shard(0)
GRIDS = [(a, b, c) for a in range(1, 9) for b in range(1, 9) for c in range(1, 9) if a * b * c <= 8]


@pytest.mark.parametrize("layout", [R, C, P, S, Shard(1, 2, 3)])
@settings(deadline=None, max_examples=15)
@given(ranks=st.integers(1, 5), shape=st.tuples(st.integers(0, 4), st.integers(0, 3)))
def test_the_inner_product_is_that_of_the_whole_tensors(layout, ranks, shape):
    """A tensor in a layout and one in its dual, each laid out from a whole tensor: <a, b> = (A, B)."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape[0], 6 * shape[1], generator=generator, dtype=torch.float64) for _ in range(2))

    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        mine, other = (scatter(one, of, axis)[axis.index] for one, of in ((a, layout), (b, dual(layout))))
        return products(mine, other, layout, axis.index)[0]

    found = sum(simulate(ranks, rank_main))
    assert found == pytest.approx((a * b).sum().item(), rel=1e-10, abs=1e-10)


@st.composite
def cases(draw):
    """A grid of up to 8 ranks on three axes (of which some have one rank), an axis, and a tensor that it converts."""
    sizes = draw(st.sampled_from(GRIDS))
    at = draw(st.sampled_from([i for i in range(3) if sizes[i] == max(sizes)] * 2 + [0, 1, 2]))
    cuts = []
    for size in sizes:
        inner = sorted(draw(st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=size - 1, max_size=size - 1)))
        cuts.append((0.0, *inner, 1.0) if draw(st.booleans()) else None)
    first, second = (Shard(draw(st.integers(0, 1)), draw(st.integers(1, 3)), draw(st.integers(1, 2))) for _ in range(2))
    piece = [math.prod(s.blocks * s.unit for s in (first, second) if s.dim == dim) for dim in range(2)]
    shape = [one * draw(st.integers(0, 5 if one < 7 else 2)) for one in piece]
    return sizes, at, cuts, first, second, (*shape, draw(st.integers(1, 7)))


@pytest.mark.parametrize(("source", "target"), CELLS)
@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_every_cell_on_grids_and_its_mirror(source, target, case):
    """<Fx, y> = <x, F*y> along one axis, and F* is the conversion dual(target) -> dual(source).

    The last dim is split over another axis of the grid, so that the ranks along the axis differ between its rows.
    """
    sizes, at, cuts, first, second, whole = case
    a, b = layout_of(source, first), layout_of(target, second if source == "shard" else first)

    def rank_main():
        grid = Grid("x".join(map(str, sizes)))
        for axis, moved in zip(grid.axes, cuts, strict=True):
            axis.move(moved)
        axis = grid.axes[at]
        local = (*whole[:2], grid.axes[at - 1].part(whole[2]))
        extents = [local[s.dim] if isinstance(s, Shard) else 0 for s in (a, b)]
        given, wanted = (_part(local, layout, axis) for layout in (a, b))
        error = conversion_error(lambda x: convert(x, a, b, axis, extents[0]), a, b, given, axis.comm)
        y = vector(dual(b), wanted, axis.index, 5)
        back = differentiated(lambda x: convert(x, a, b, axis, extents[0]))(vector(a, given, axis.index, 6))[1](y)
        mirror = convert(y, dual(b), dual(a), axis, extents[1])
        return error, torch.equal(back, mirror) or torch.allclose(back, mirror, rtol=1e-14, atol=1e-14)

    for error, mirrored in simulate(math.prod(sizes), rank_main):
        assert error <= TOLERANCE
        assert mirrored


def _part(shape, layout, axis):
    if not isinstance(layout, Shard):
        return shape
    piece = layout.blocks * layout.unit
    return tuple(piece * axis.part(n // piece) if dim == layout.dim else n for dim, n in enumerate(shape))


def mutants(axis):
    """Conversions with adjoints that somebody once thought right: name -> (source, target, F, wrong F*), rows 0 to 4."""
    low, high = axis.bounds(5)[axis.index : axis.index + 2]

    def right(source, target):
        return conversion(axis, source, target, 5)

    def filled(y):
        whole = torch.zeros(5, 2, dtype=y.dtype)
        whole[low:high] = y
        return whole

    first = axis.index == 0
    summed = right(P, C)
    return {
        "gather that also sums": (S, R, right(S, R), lambda y: summed(y)[low:high]),
        "all_gather that does not": (S, C, right(S, C), lambda y: y[low:high]),
        "all_sum that sums again": (P, R, right(P, R), summed),
        "copy that does not sum": (R, C, right(R, C), lambda y: y),
        "split that keeps its part": (R, S, right(R, S), filled),
        "split that averages": (R, S, right(R, S), lambda y: right(S, R)(y) / axis.size),
        "take that gathers": (C, S, right(C, S), right(S, R)),
        "keep that masks": (R, P, right(R, P), lambda y: y if first else y * 0),
        "once that counts on every rank": (C, R, right(C, R), lambda y: y),
        "zero_fill that sums": (S, P, right(S, P), lambda y: summed(y)[low:high]),
        "reduce_scatter that fills with zeros": (P, S, right(P, S), filled),
        "all_sum, copied, that does not sum back": (P, C, right(P, C), lambda y: y),
        "all_to_all of which a row comes from elsewhere": (S, S, lambda x: x, lambda y: y.roll(1, 1)),
        "a factor that is off by 1e-10": (S, R, right(S, R), lambda y: y[low:high] * (1 + 1e-10)),
        "a sum that differs between ranks": (P, R, lambda x: right(P, R)(x) + 1e-14 * axis.index, lambda y: y),
        "not a number": (S, S, lambda x: x * math.nan, lambda y: y),
    }


@pytest.mark.parametrize("ranks", [2, 3])
def test_wrong_adjoints_fail(ranks):
    def rank_main():
        axis = Grid(str(ranks)).axes[0]
        found = {}
        for name, (source, target, forward, adjoint) in mutants(axis).items():
            shape = (axis.part(5), 2) if isinstance(source, Shard) else (5, 2)
            found[name] = operator_error(
                lambda x, f=forward, g=adjoint: (f(x), g), source, target, shape, axis.comm, seed=3
            )
        return found

    every = simulate(ranks, rank_main)
    assert all(one == every[0] for one in every)
    assert [name for name, error in every[0].items() if error <= TOLERANCE] == []


def test_an_autograd_function_with_a_wrong_adjoint_fails():
    """The usual mistake: a gather whose backward sums the gradient of what is one tensor, as if it were copied."""

    def rank_main():
        axis = Grid("2").axes[0]
        good, bad = conversion(axis, S, R, 5), conversion(axis, S, C, 5)
        return [conversion_error(one, S, R, (axis.part(5), 2), axis.comm) for one in (good, bad)]

    for good, bad in simulate(2, rank_main):
        assert good <= TOLERANCE
        assert bad > 0.01


def test_relative_gaps():
    assert relative(0.0, 0.0, 0.0) == 0
    assert relative(1.0, 0.0) == math.inf
    assert relative(-1.0, 2.0, 4.0) == 0.25
    assert relative(math.nan, 1.0) == math.inf
