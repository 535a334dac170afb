"""Long-lived jobs that step on command, so that contenders take turns and never run at the same time.

A `Job` is the processes of one contender (see workers/contender.py), reached over a socket in a folder of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.console import Console
from rich.progress import track

from autopar.jobs.launch import command as mpi_command

if TYPE_CHECKING:
    from benchmarks.contenders import Contender

WORKER = "benchmarks.workers.contender"
Rounds = tuple[tuple[float, ...], ...]
PATIENCE = 300.0  # seconds for a job to get ready, or to answer


class JobFailed(Exception):
    """A contender's process ended or stayed silent; the message ends with what it printed last."""


@dataclass(frozen=True, slots=True)
class ProcessLink:
    """The stream to one process."""

    socket: socket.socket
    reads: TextIO

    def ask(self, message: dict[str, int]) -> None:
        self.socket.sendall((json.dumps(message) + "\n").encode())

    def answer(self) -> dict[str, list[float]]:
        line = self.reads.readline()
        if not line:
            raise JobFailed("a process ended early")
        answer: dict[str, list[float]] = json.loads(line)
        return answer


@dataclass(frozen=True, slots=True)
class StepBlock:
    """Some steps in a row: seconds and loss of each, as rank 0 saw them."""

    seconds: tuple[float, ...]
    losses: tuple[float, ...]


class Job:
    """The running processes of one contender, which wait until `steps` is called."""

    def __init__(self, contender: Contender, model: str, small: bool, folder: Path) -> None:
        self.contender = contender
        self.log = folder / f"{contender.name}.log"
        address = folder / f"{contender.name}.socket"
        words = [str(address), contender.name, model, "small" if small else "full", str(folder)]
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("w") as log:
            listener.bind(str(address))
            listener.listen(contender.ranks)
            listener.settimeout(1.0)
            self.processes = launch(contender, words, log)
            try:
                self.links = self._accept(listener)
            except BaseException:
                self.close()
                raise

    def _accept(self, listener: socket.socket) -> list[ProcessLink]:
        """The links to all ranks, in rank order."""
        ranked: dict[int, ProcessLink] = {}
        deadline = time.monotonic() + PATIENCE
        while len(ranked) < self.contender.ranks:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if any(process.poll() is not None for process in self.processes) or time.monotonic() > deadline:
                    raise JobFailed(self._last_words()) from None
                continue
            connection.settimeout(PATIENCE)
            link = ProcessLink(connection, connection.makefile("r"))
            ranked[int(json.loads(link.reads.readline())["rank"])] = link
        return [ranked[rank] for rank in sorted(ranked)]

    def steps(self, count: int) -> StepBlock:
        """Take `count` steps now, and return once all processes have taken them."""
        first = self._ask({"steps": count})[0]
        return StepBlock(tuple(b - a for a, b in pairwise(first["times"])), tuple(first["losses"]))

    def peak(self) -> int:
        """Take one step more; the most bytes of tensors that a process held meanwhile, of all processes."""
        return max(self.peaks())

    def peaks(self) -> list[int]:
        """Take one step more; the most bytes of tensors that each process held meanwhile, in rank order."""
        return [int(answer["peak"][0]) for answer in self._ask({"peak": 1})]

    def _ask(self, message: dict[str, int]) -> list[dict[str, list[float]]]:
        """The answers of all processes, in rank order."""
        try:
            for link in self.links:
                link.ask(message)
            return [link.answer() for link in self.links]
        except (OSError, JobFailed) as error:
            raise JobFailed(self._last_words()) from error

    def _last_words(self) -> str:
        for process in self.processes:  # who fails closes the stream first, and says why as it ends
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
        lines = self.log.read_text().splitlines()
        errors = [line for line in lines[:-20] if "Error: " in line]  # of the rank that failed first, say
        return f"{self.contender.title} failed:\n" + "\n".join([*errors, *lines[-20:]])

    def close(self) -> None:
        """Let the processes end; end them by force where they do not."""
        for link in getattr(self, "links", []):
            link.reads.close()
            link.socket.close()
        for process in self.processes:
            try:
                process.wait(60 if hasattr(self, "links") else 0)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()


@dataclass(frozen=True, slots=True)
class Turns:
    """What a job took: seconds of every timed step by round, and the losses of all steps."""

    rounds: Rounds
    losses: tuple[float, ...]


class Timed(Protocol):
    """Whatever has rounds of timed steps."""

    @property
    def rounds(self) -> Rounds: ...


def take_turns(jobs: Mapping[str, Job], rounds: int, steps: int, log: Console, settle: int = 1) -> dict[str, Turns]:
    """So many rounds in which every job takes its steps; the first `settle` of a turn do not count: caches are another job's.

    Whoever is first in one round is last in the next, lest a neighbour's habits become a contender's.
    """
    blocks: dict[str, list[StepBlock]] = {name: [] for name in jobs}
    for number in track(range(rounds), "rounds", console=log, transient=True):
        for name in list(jobs)[:: 1 if number % 2 == 0 else -1]:
            blocks[name].append(jobs[name].steps(settle + steps))
    return {
        name: Turns(
            tuple(block.seconds[settle:] for block in row), tuple(loss for block in row for loss in block.losses)
        )
        for name, row in blocks.items()
    }


def ratio(one: Timed, other: Timed) -> float:
    """The first's time as a multiple of the second's, taken round by round."""
    return median(median(a) / median(b) for a, b in zip(one.rounds, other.rounds, strict=True))


def launch(contender: Contender, words: list[str], log: TextIO) -> list[subprocess.Popen[bytes]]:
    """Start the contender's processes with these arguments to the worker."""
    environment = os.environ | {"OMP_NUM_THREADS": str(contender.threads), "MKL_NUM_THREADS": str(contender.threads)}
    command = [sys.executable, "-m", WORKER, *words]
    if contender.launch == "mpi":
        command = mpi_command(WORKER, contender.ranks, words)
    started = []
    for rank in range(contender.ranks if contender.launch == "gloo" else 1):
        place = {"RANK": str(rank), "WORLD_SIZE": str(contender.ranks)} if contender.launch == "gloo" else {}
        started.append(subprocess.Popen(command, env=environment | place, stdout=log, stderr=log))
    return started


def answer_of(command: list[str], what: str, seconds: float | None = None, threads: int = 0) -> Any:  # noqa: ANN401
    """Run a command: the JSON of the last line that it prints. Ends this program where it fails.

    `threads` are those of each process, where they are not left to torch.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
