"""The primitives on partitions, on real MPI ranks."""

import os
from pathlib import Path

import pytest
from spmd import mpiexec


@pytest.mark.spmd
@pytest.mark.zoo
def test_partitions_on_eight_ranks():
    """Fewer ranks run in test_mpi.py."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    result = mpiexec(8, [here / "partition_ranks.py"], environment={"PYTHONPATH": path})
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["done"]
