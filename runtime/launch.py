"""Starts a program on MPI ranks: builds the mpiexec line, shows it, runs it, and repeats the first cause if it fails.

The line can be run by hand; nothing else is needed. ``python -m mpi4py`` in it makes an uncaught error on one rank
end the job, where plain Python would leave the others waiting.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from autopar.errors import ConfigError, refusal
from autopar.runtime import failure

TERMINAL = "AUTOPAR_TERMINAL"
_KILLED = re.compile(rb"PID (\d+)|process rank (\d+) with PID")
_KEPT = 65536  # bytes of output that are searched for MPI's own account of the end


def launch(target: Path | str, ranks: int, arguments: Sequence[str] = (), *, quiet: bool = False) -> int:
    """Run a program file, or a module given by name, on `ranks` MPI ranks, and return the job's exit status.

    Output streams through. On failure the first cause comes last. `quiet` leaves out the mpiexec line. Raises
    ConfigError where there is no mpiexec.
    """
    line = command(target, ranks, arguments)
    if not quiet:
        print(shlex.join(line), flush=True)
    with tempfile.TemporaryDirectory(prefix="autopar-") as folder:
        status, output = _run(line, _environment(folder))
        if status:
            print(_cause(Path(folder), status, output), file=sys.stderr, flush=True)
    return status


def command(target: Path | str, ranks: int, arguments: Sequence[str] = ()) -> list[str]:
    """The mpiexec line. Raises ConfigError where there is no mpiexec."""
    program = ["-m", target] if isinstance(target, str) else [str(target)]
    mpiexec = _mpiexec()
    more = ["--oversubscribe"] if _is_open_mpi(mpiexec) else []
    return [mpiexec, *more, "-n", str(ranks), sys.executable, "-m", "mpi4py", *program, *arguments]


def _mpiexec() -> str:
    """The mpiexec of this environment, else that on the path: it has to belong to the MPI library that mpi4py loads."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        rule = "a program runs on MPI ranks, which mpiexec starts"
        fix = "pip install mpich (or load your cluster's MPI module)"
        raise ConfigError(refusal("mpiexec", "not found in this environment or on the path", rule, fix=fix))
    return found


def _is_open_mpi(mpiexec: str) -> bool:
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return "Open MPI" in said.stdout or "OpenRTE" in said.stdout


def _environment(folder: str) -> dict[str, str]:
    environment = dict(os.environ) | {failure.FOLDER: folder, "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        environment[TERMINAL] = "1"
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in containers everybody is root, and Open MPI wants to be told
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment


def _run(line: Sequence[str], environment: dict[str, str]) -> tuple[int, bytes]:
    """Run the line with its output passed through; returns its status and the end of what it printed."""
    kept = bytearray()
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        pairs = [(job.stdout, sys.stdout), (job.stderr, sys.stderr)]
        threads = [threading.Thread(target=_pass_on, args=(pipe, stream, kept)) for pipe, stream in pairs]
        for thread in threads:
            thread.start()
        try:
            status = job.wait()
        except KeyboardInterrupt:  # mpiexec has had it too, and ends the ranks
            status = job.wait()
        for thread in threads:
            thread.join()
    return status, bytes(kept)


def _pass_on(pipe: BinaryIO, stream: object, kept: bytearray) -> None:
    target: BinaryIO | None = getattr(stream, "buffer", None)
    while chunk := os.read(pipe.fileno(), 65536):
        kept += chunk
        del kept[:-_KEPT]
        if target is not None:
            target.write(chunk)
            target.flush()
        else:
            stream.write(chunk.decode(errors="replace"))  # type: ignore[attr-defined]  # a captured text stream


def _cause(folder: Path, status: int, output: bytes) -> str:
    """What to show last."""
    cause = failure.first(folder)
    if cause is not None:
        return cause.text if cause.alike else f"\nthe job ended because rank {cause.rank} failed:\n{cause.text}"
    for found in _KILLED.finditer(output):
        process, rank = found.groups()
        known = int(rank) if rank else failure.rank_of_process(folder, int(process))
        if known is not None:
            return f"\nthe job ended because rank {known} was killed or ended without a word (status {status})"
    return f"\nthe job ended with status {status}; its own output above says why"
