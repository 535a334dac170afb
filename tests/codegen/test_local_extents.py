"""Local extents as expressions, evaluated and compared with index sets counted one by one."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autopar.codegen.local_extents import Split, around, local_extent, product
from autopar.ir.layout import even_bounds


class FakeAxis:
    """An axis as the program sees it, without ranks."""

    def __init__(self, size: int, index: int) -> None:
        self.size, self.index = size, index

    def part(self, extent: int) -> int:
        bounds = even_bounds(extent, self.size)
        return bounds[self.index + 1] - bounds[self.index]


def held(indices: np.ndarray, split: Split, axis: FakeAxis, blocks: int, unit: int) -> np.ndarray:
    """The rows of a dim that are left after one more split, whose blocks and unit count what is left before it."""
    cube = indices.reshape(blocks, -1, unit)
    bounds = even_bounds(cube.shape[1], axis.size)
    return cube[:, bounds[axis.index] : bounds[axis.index + 1], :].reshape(-1)


@st.composite
def cuts(draw):
    """A dim as the product of three factors, and up to two axes that cut factors of it."""
    factors = [draw(st.integers(2, 5)) for _ in range(3)]  # a letter of extent one is never split
    axes = {"A": FakeAxis(draw(st.integers(1, 3)), 0), "B": FakeAxis(draw(st.integers(1, 3)), 0)}
    for axis in axes.values():
        axis.index = draw(st.integers(0, axis.size - 1))
    places = [draw(st.integers(0, 2)) for _ in range(draw(st.integers(0, 2)))]
    splits = [
        Split(name, math.prod(factors[:place]), math.prod(factors[place + 1 :]))
        for name, place in zip(axes, places, strict=False)
    ]
    return factors, axes, splits, places


@given(cuts())
def test_local_extent_counts_the_rows_a_rank_holds(case):
    factors, axes, splits, places = case
    sizes = list(factors)
    for split, place in zip(splits, places, strict=True):
        sizes[place] = axes[split.axis].part(sizes[place])
    text = local_extent(math.prod(factors), splits)
    assert eval(text, dict(axes)) == math.prod(sizes)


@given(cuts())
def test_a_primitive_sees_the_dim_as_the_other_axes_left_it(case):
    factors, axes, splits, places = case
    if len(splits) < 2:
        return
    outer, inner = splits
    extent = math.prod(factors)
    local = around(extent, [outer], inner)
    indices = held(np.arange(extent), outer, axes[outer.axis], outer.blocks, outer.unit)
    blocks, unit = eval(local.blocks, dict(axes)), eval(local.unit, dict(axes))
    assert eval(local.extent, dict(axes)) == len(indices)
    if not len(indices):
        return
    left = held(indices, inner, axes[inner.axis], blocks, unit)
    expected = np.arange(extent).reshape(factors)
    for split, place in zip(splits, places, strict=True):
        bounds = even_bounds(expected.shape[place], axes[split.axis].size)
        index = axes[split.axis].index
        expected = np.take(expected, range(bounds[index], bounds[index + 1]), axis=place)
    assert left.tolist() == expected.reshape(-1).tolist()


def test_products_put_the_literal_last():
    assert product([]) == "1"
    assert product(["2", "3"]) == "6"
    assert product(["1", "A.part(2)"]) == "A.part(2)"
