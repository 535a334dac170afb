"""Sizes of local parts at their edges; the rest is shown by the redistribution tests."""

from autopar.costmodel.local_shapes import largest_part


def test_largest_part_of_nothing():
    assert largest_part(0, [(1, 1, 4)]) == 0
