"""A job that goes on when ranks die: started again from its newest whole checkpoint, on the ranks that are left.

A rank that was killed, for want of memory say, or that is gone without a word, is a death. An error that a rank has told, a
deadlock too, is the program's own, and is never tried again; nor is a death in the same step as the one before, or before
training began. mpiexec ends all ranks when one dies, so that the next job has as many fewer as it names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopar.jobs.launch import JobEnd, launch_once
from autopar.jobs.signals import STOPPED


@dataclass(frozen=True, slots=True)
class ElasticJob:
    """A program in a compiled folder, and how it is started.

    `words` are the program's; `first` those that a job which goes on from a checkpoint does not have; `options` mpiexec's;
    `most` how often it is started again; `huge_pages` as `launch` has it.
    """

    folder: Path
    ranks: int
    words: Sequence[str]
    first: Sequence[str]
    options: Sequence[str]
    checkpoint: Path
    most: int
    huge_pages: bool = False


def run(job: ElasticJob, program: str, planned: Callable[[int], Path | None]) -> int:
    """Run a job until it ends by itself; its exit status. `planned` gives a folder compiled for so many ranks, if it can."""
    begun, folder, ranks = time.time(), job.folder, job.ranks
    before: JobEnd | None = None
    for restarts in range(job.most + 1):
        goes_on = before is not None and any(job.checkpoint.glob("step-*/index.json"))
        words = [*job.words, *(["--resume"] if goes_on else job.first)]
        reached = before.reached if before is not None else None
        end = launch_once(
            folder / program, ranks, words, options=job.options, begun=begun, reached=reached, huge_pages=job.huge_pages
        )
        if end.status in (0, STOPPED):
            return end.status
        why = _objection(end, before)
        if why or restarts == job.most:
            if before is not None or not end.told:
                _say(why or f"it was started again {job.most} times, as often as --max-restarts allows")
            return end.status
        lost = max(1, len(end.dead))
        ranks = max(1, ranks - lost)
        _say(
            f"{_many(lost)} died after step {end.reached}; start {restarts + 1} of {job.most} again, on {_many(ranks)}"
        )
        compiled = planned(ranks)
        if compiled is None:
            _say(f"the model cannot be compiled for {_many(ranks)}")
            return end.status
        folder, before = compiled, end
    raise AssertionError("the last start returns")


def _objection(end: JobEnd, before: JobEnd | None) -> str:
    """Why a job that has failed is not started again; empty if it is."""
    if end.stopped:
        return f"it was ended by {end.stopped}"
    if end.told:
        return "a rank told of an error, which would come again"
    if end.reached is None:
        return "no rank had begun to train"
    if before is not None and before.reached == end.reached:
        return f"a rank died in step {end.reached + 1} for the second time"
    return ""


def _many(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks != 1 else ''}"


def _say(text: str) -> None:
    print(f"elastic    {text}", file=sys.stderr, flush=True)
