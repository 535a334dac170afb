"""The primitives on partitions, on real MPI ranks."""

from pathlib import Path

import pytest
from spmd import mpiexec


@pytest.mark.spmd
@pytest.mark.zoo
def test_partitions_on_eight_ranks():
    """Fewer ranks run in test_mpi.py."""
    result = mpiexec(8, [Path(__file__).with_name("partition_ranks.py")])
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["done"]
