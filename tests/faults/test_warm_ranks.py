"""Ranks that are forked by `warm_ranks` are ranks: they know one another, and their ends reach mpiexec."""

import subprocess
import sys
from pathlib import Path

import pytest
import warm_ranks
from spmd import mpiexec

pytestmark = pytest.mark.fault
SCRIPT = """
import os, signal, sys
from pathlib import Path
loaded = "torch" in sys.modules
from mpi4py import MPI
world = MPI.COMM_WORLD
sys.stdout.write(f"{sum(world.allgather(10 ** world.rank))} {loaded} {Path.cwd()} {sys.argv[1:]}\\n")
sys.stdout.flush()
world.barrier()
if world.rank == 1:
    exec(sys.argv[1])
world.barrier()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no ranks are forked")
@pytest.mark.parametrize(
    ("end", "status"), [("pass", 0), ("sys.exit(3)", 3), ("1 / 0", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 9)]
)
def test_a_warm_rank_ends_as_a_cold_one(tmp_path, end, status):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = mpiexec(3, ["script.py", end], cwd=tmp_path)
    assert done.returncode == status
    assert done.stdout.splitlines()[:3] == [f"111 True {tmp_path} ['{end}']"] * 3
    assert ("ZeroDivisionError" in done.stderr) == (status == 1)


def test_the_server_ends_with_whoever_started_it():
    code = "import warm_ranks; print(*warm_ranks.found_by().values()); print(*[one.pid for one in warm_ranks.SERVERS])"
    folder = Path(warm_ranks.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    for path in done.stdout.split()[:1]:
        assert not Path(path).exists()
