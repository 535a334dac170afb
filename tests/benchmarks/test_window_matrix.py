"""The matrix on which spatially split convolutions fail elsewhere: every cell of the benchmark's is right."""

import math

import pytest

from benchmarks import window_matrix as matrix


@pytest.mark.parametrize("layout", matrix.LAYOUTS, ids=str)
def test_every_setting(layout):
    for setting in matrix.SETTINGS:
        cell = matrix.cell(setting, layout)
        assert cell.right, cell


def test_the_matrix_has_what_others_fail_on():
    settings, layouts = matrix.SETTINGS, matrix.LAYOUTS
    assert any(one.stride > 1 for one in settings)
    assert any(one.dilation > 1 for one in settings)
    assert any(k % 2 == 0 for one in settings for k in one.kernel)
    assert any(one.groups > 1 for one in settings)
    assert any(one.shape[0] > 1 for one in settings)
    assert any(one.shape[2] % 4 and one.shape[2] % 3 and one.shape[2] % 2 for one in settings)
    assert any(None in one.dims for one in layouts)
    assert {len(one.dims) for one in layouts} == {1, 2}


def test_an_error_would_be_seen(monkeypatch):
    """A weight that is not copied over an axis gets this rank's addend alone; one copied twice is counted twice."""
    setting, layout = matrix.SETTINGS[0], matrix.Layout("2x2", (2, None))
    monkeypatch.setattr(matrix, "copy", lambda weight, axis: weight)
    cell = matrix.cell(setting, layout)
    assert not cell.right
    assert cell.value <= matrix.LIMIT < cell.weight_gradient
    assert "WRONG" in matrix.table([cell])
    assert matrix._difference(matrix.random(2, seed=0), matrix.random(3, seed=0)) == math.inf
