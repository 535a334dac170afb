"""Sizes of local parts at their edges; the rest is shown by the redistribution tests."""

from autopar.costmodel.local_shapes import local_part
from autopar.ir.grid import GridShape


def test_a_part_of_nothing():
    assert local_part(0, [(1, 1, 0)], GridShape.parse("4")) == 0
