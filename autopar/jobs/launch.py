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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autopar.errors import ConfigError, refusal
from autopar.jobs import child, ends, failure_files, flight_recorder, signals
from autopar.jobs.environment import TERMINAL, settings
from autopar.jobs.reached import REACHED, reached_step


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended: its status, the ranks that were killed, the last step that was done, None before the first.

    `told`: a rank has told why, by an error; `stopped` is the signal by which the launcher ended it at once.
    """

    status: int
    dead: tuple[int, ...] = ()
    reached: int | None = None
    told: bool = False
    stopped: str = ""


_HOST = re.compile(r"[^\s:,]+(:[1-9]\d*)?")
_HUGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # advised for what glibc maps, if the kernel lets it


def launch(
    target: Path | str,
    ranks: int,
    arguments: Sequence[str] = (),
    *,
    quiet: bool = False,
    options: Sequence[str] = (),
    huge_pages: bool = False,
) -> int:
    """Run a program file, or a module given by name, on `ranks` MPI ranks, and return the job's exit status.

    `options` go to mpiexec. Output streams through. On failure the first cause comes last. `quiet` leaves out the
    mpiexec line. An interrupt, SIGTERM or SIGUSR1 to this process ends the job: a program after its step, with status 85,
    and at once by a second one. With `huge_pages` ranks ask for these where they map memory. Raises ConfigError where there
    is no mpiexec, and for a variable that is not understood.
    """
    return launch_once(target, ranks, arguments, quiet=quiet, options=options, huge_pages=huge_pages).status


def launch_once(
    target: Path | str,
    ranks: int,
    arguments: Sequence[str] = (),
    *,
    quiet: bool = False,
    options: Sequence[str] = (),
    begun: float | None = None,
    reached: int | None = None,
    huge_pages: bool = False,
) -> JobEnd:
    """`launch`, and how the job ended.

    Of a job that is started again, `begun` is when it first was, in seconds of the epoch, and `reached` the last step it had done.
    """
    settings()
    line = command(target, ranks, arguments, options)
    if not quiet:
        print(shlex.join(line), flush=True)
    with tempfile.TemporaryDirectory(prefix="autopar-", dir=flight_recorder.memory_folder()) as folder:
        environment = _environment(folder, begun)
        if huge_pages:
            environment.setdefault(*_HUGE_PAGES)
        environment |= {} if reached is None else {REACHED: str(reached)}
        ended = child.run(line, environment, Path(folder), listens=isinstance(target, Path))
        return _job_end(ended, Path(folder))


def _job_end(ended: child.Ended, folder: Path) -> JobEnd:
    """How a job has ended; what there is to say of a failure is printed."""
    seen = flight_recorder.read_folder(folder)
    status = ended.status
    if ended.stopped:
        for record in seen:
            flight_recorder.kill(record)
        print(f"\nthe job was ended by {ended.stopped}", file=sys.stderr, flush=True)
    elif status == signals.STOPPED or (not status and (folder / signals.WORD).exists()):
        status = signals.STOPPED
    elif status or ends.lost(seen):
        status = status or 1
        for record in seen if status < 0 else ():  # mpiexec was killed, and can end nobody any more
            flight_recorder.kill(record)
        print(ends.account(folder, status, ended.output, seen), file=sys.stderr, flush=True)
    dead, told = ends.named_ranks(folder, ended.output), failure_files.first(folder) is not None
    return JobEnd(status, dead, reached_step(folder), told, ended.stopped)


def command(target: Path | str, ranks: int, arguments: Sequence[str] = (), options: Sequence[str] = ()) -> list[str]:
    """The mpiexec line, with `options` for mpiexec itself. Raises ConfigError where there is no mpiexec."""
    program = ["-m", target] if isinstance(target, str) else [str(target)]
    launcher = mpiexec()
    more = ["--oversubscribe"] if _is_open_mpi(launcher) else []
    python = [sys.executable, "-P"] if isinstance(target, str) and _hidden(Path.cwd()) else [sys.executable]
    return [launcher, *more, *options, "-n", str(ranks), *python, "-m", "mpi4py", *program, *arguments]


def _hidden(folder: Path) -> bool:
    """Whether modules that are started here by name would be those of another autopar, as in a checkout."""
    other, own = folder / "autopar" / "__init__.py", Path(__file__).parents[1] / "__init__.py"
    return other.is_file() and not other.samefile(own)


def host_options(hosts: str) -> list[str]:
    """The options that name hosts and their ranks, ``a:2,b:2``, to this environment's mpiexec. Raises ConfigError."""
    wrong = [repr(word) for word in hosts.split(",") if not _HOST.fullmatch(word)]
    if wrong:
        rule = "hosts are names, each with a number of ranks of at least 1 if any, joined by commas"
        raise ConfigError(refusal("--hosts", f"{hosts!r} is no such list", rule, wrong, "write e.g. --hosts a:2,b:2"))
    return ["--host" if _is_open_mpi(mpiexec()) else "-hosts", hosts]


def mpiexec() -> str:
    """The mpiexec of this environment, else that on the path: it has to belong to the MPI library that mpi4py loads."""
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        rule = "a program runs on MPI ranks, which mpiexec starts"
        fix = "pip install mpich (or load your cluster's MPI module)"
        raise ConfigError(refusal("mpiexec", "not found in this environment or on the path", rule, fix=fix))
    return launcher


def _is_open_mpi(launcher: str) -> bool:
    said = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return "Open MPI" in said.stdout or "OpenRTE" in said.stdout


def _environment(folder: str, begun: float | None) -> dict[str, str]:
    environment = dict(os.environ) | {failure_files.FOLDER: folder, "PYTHONUNBUFFERED": "1"}
    environment[TERMINAL] = "1" if sys.stdout.isatty() else "0"
    environment[signals.LAUNCHER] = signals.launcher_word()
    environment[signals.BEGUN] = f"{time.time() if begun is None else begun:.3f}"
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in containers everybody is root, and Open MPI wants to be told
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return environment
