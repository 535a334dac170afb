"""Runs a Python script or module on real MPI ranks, for tests marked `spmd`."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from warm_ranks import found_by, warm

TESTS = Path(__file__).parents[2]
MODULES = os.pathsep.join(sorted({str(path.parent) for path in TESTS.rglob("*.py") if "golden" not in path.parts}))


def mpiexec(
    ranks: int,
    arguments: Sequence[str | Path],
    timeout: float = 120.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cold: bool = False,
) -> subprocess.CompletedProcess[str]:
    """``mpiexec -n ranks python -m mpi4py arguments...``, one thread per rank, with stdout and stderr as text.

    `arguments` is a script with its arguments, or ``["-m", "module", ...]``. The whole job is killed after `timeout`
    seconds, and its output so far is in the AssertionError then raised. The ranks are forked by `warm_ranks`, or each starts
    Python itself if `cold`.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else "mpiexec"
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", *map(str, arguments)]
    path = os.pathsep.join([MODULES, os.environ.get("PYTHONPATH", "")])  # every module below tests/, by its name alone
    given = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
        **({} if cold else found_by()),
        **(environment or {}),
    }
    # With it a line and its end are two writes, and another rank's line comes between.
    given.pop("PYTHONUNBUFFERED", None)
    process = subprocess.Popen(
        command if cold else warm(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=given,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # mpiexec ends its ranks, which are in sessions of their own
        try:
            out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        raise AssertionError(f"{command} did not end within {timeout:g} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)
