"""Divided programs on real MPI ranks."""

from pathlib import Path

import pytest
from spmd import mpiexec


@pytest.mark.spmd
def test_under_mpiexec():
    result = mpiexec(3, [Path(__file__).with_name("divided_ranks.py")])
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["done"]
