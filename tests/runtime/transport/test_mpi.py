"""The runtime on real MPI ranks: the same tests as under simulation, and what only MPI has."""

from pathlib import Path

import pytest
from spmd import mpiexec
from warm_ranks import python

from autopar.errors import ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.runtime import Grid, simulate
from autopar.runtime.grid.grid import check_ranks

MOST = ["types", "conversions", "windows", "statistics", "partitions"]


@pytest.mark.spmd
@pytest.mark.parametrize(
    ("ranks", "nodes", "parts"),
    [
        (2, 1, ["many_grids", "windows", "sums"]),
        pytest.param(2, 1, MOST, marks=pytest.mark.zoo),  # below, the ranks of a node are two as well
        pytest.param(3, 1, ["on_mpi", "sums"], marks=pytest.mark.zoo),
        (3, 3, ["on_mpi", "sums", "counters"]),
        (4, 2, [*MOST, "sums", "counters"]),
        pytest.param(3, 1, ["many_grids", *MOST], marks=pytest.mark.zoo),
        pytest.param(8, 1, ["partitions", "sums"], marks=pytest.mark.zoo),
    ],
)
def test_under_mpiexec(ranks, nodes, parts):
    """MPICH can be told to take the ranks of one machine for ranks of several nodes."""
    environment = {"MPIR_CVAR_NUM_CLIQUES": str(nodes)}
    script = Path(__file__).with_name("mpi_ranks.py")
    result = mpiexec(ranks, [script, *parts], environment=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == [*parts, "nodes", str(nodes)]


@pytest.mark.spmd
def test_a_grid_of_another_size_is_refused_on_every_rank(tmp_path):
    script = tmp_path / "wrong.py"
    script.write_text("from autopar.runtime import Grid\nGrid('2x2')\n")
    result = mpiexec(2, [script])
    assert result.returncode != 0
    assert "grid 2x2: needs 4 ranks; MPI reports 2" in result.stderr
    assert "mpiexec -n 4" in result.stderr


@pytest.mark.spmd
def test_mpiexec_ends_a_job_that_hangs(tmp_path):
    script = tmp_path / "hang.py"
    script.write_text("import time\nprint('before', flush=True)\ntime.sleep(60)\n")
    with pytest.raises(AssertionError, match="did not end within 2 s"):
        mpiexec(2, [script], timeout=2)


def test_singletons_are_told_from_a_wrong_size(monkeypatch):
    """srun without a shared process manager starts N jobs of one rank each, and says nothing."""
    shape = GridShape.parse("8")
    for name in ("SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProgramMismatch, match="mpiexec -n 8"):
        check_ranks(shape, 1)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(ProgramMismatch, match="needs 8 ranks; MPI reports 1 while SLURM_NTASKS=8") as refused:
        check_ranks(shape, 1)
    assert "--mpi=pmi2" in str(refused.value)
    assert "--mpi=pmix" in str(refused.value)


def test_a_simulation_of_another_size_is_refused():
    with pytest.raises(ProgramMismatch, match="needs 4 ranks"):
        simulate(3, lambda: Grid("4"))


def test_importing_the_runtime_does_not_start_mpi():
    """mpi4py starts MPI when it is imported, which aborts under some launchers; a simulation needs none."""
    code = (
        "import sys, autopar.runtime as r; r.simulate(2, lambda: r.Grid('2').rank); "
        "sys.exit('mpi4py' in sys.modules or 'autopar.capture' in sys.modules)"
    )
    assert python(code).returncode == 0


LEAVING = """
import sys
import torch
from autopar.runtime.transport import shared_memory
from autopar.runtime.transport.mpi import MpiComm

free = shared_memory.SharedMemory.free

def told(self):
    free(self)
    print("freed", flush=True)

shared_memory.SharedMemory.free = told
comm = MpiComm.world()
comm.empty(1 << 16, torch.float32)
how = sys.argv[1] if comm.rank == 1 else "ends"
if how == "raises":
    raise RuntimeError("the sky has fallen")
if how == "exits":
    sys.exit(3)
if sys.argv[1] in ("raises", "exits"):
    comm.barrier()
"""


@pytest.mark.spmd
@pytest.mark.parametrize(
    ("how", "freed"),
    [("ends", 4), pytest.param("raises", 0, marks=pytest.mark.zoo), pytest.param("exits", 0, marks=pytest.mark.zoo)],
)
def test_shared_memory_is_freed_at_exit_if_all_ranks_come_to_it(how, freed, tmp_path):
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    result = mpiexec(2, [script, how], timeout=30)
    assert result.stdout.count("freed") == freed
    assert (result.returncode == 0) == (how == "ends"), result.stderr
