"""Sums through shared memory, and through memory and network together, on real MPI ranks.

MPICH can be told to take the ranks of one machine for ranks of several nodes (MPIR_CVAR_NUM_CLIQUES).
"""

from pathlib import Path

import pytest
from spmd import mpiexec

SCRIPT = Path(__file__).with_name("mpi_sums.py")


@pytest.mark.spmd
@pytest.mark.parametrize(
    ("ranks", "nodes"), [(2, 1), (3, 1), (4, 2), (3, 3), pytest.param(8, 1, marks=pytest.mark.zoo)]
)
def test_sums_are_exact_whoever_is_late(ranks, nodes):
    environment = {"MPIR_CVAR_NUM_CLIQUES": str(nodes)}
    result = mpiexec(ranks, [SCRIPT, "0" if ranks == 2 else "100000"], environment=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["nodes", str(nodes)]
