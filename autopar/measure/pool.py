"""Workers that time one job at the same time, as ranks that share a machine do: memory's bandwidth is theirs together.

They are forked, so that they know the operators that the model's file has registered, and compute with one thread.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType

from autopar.errors import AutoparError, refusal
from autopar.measure.timed_call import TimedCall

_PATIENCE = 120.0  # seconds for one job


class Pool:
    """So many workers. The slowest counts, for whom the others would wait."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._workers = []
        for _ in range(workers):
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(there,), daemon=True)
            worker.start()
            there.close()
            self._pipes.append(here)
            self._workers.append(worker)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for worker in self._workers:
            worker.terminate()
            worker.join()

    def time(self, job: TimedCall) -> tuple[float, float] | None:
        """(forward, backward) seconds, or None where the call cannot be run alone."""
        try:
            for pipe in self._pipes:
                pipe.send(job)
            answers = [self._answer(pipe) for pipe in self._pipes]
        except (EOFError, OSError) as error:
            given = f"the process that timed `{job.text}` has ended, or is too slow"
            rule = f"a call runs alone, on made-up tensors, within {_PATIENCE:.0f} s"
            raise AutoparError(refusal("--measure", given, rule, fix="compile without --measure")) from error
        known = [one for one in answers if one is not None]
        return (max(one for one, _ in known), max(one for _, one in known)) if known else None

    def _answer(self, pipe: Connection) -> tuple[float, float] | None:
        if not pipe.poll(_PATIENCE):
            raise EOFError
        answer: tuple[float, float] | None = pipe.recv()
        return answer


def _serve(pipe: Connection) -> None:
    """What a worker does: answer jobs until the pipe closes."""
    import torch

    from autopar.measure.worker import seconds
    from autopar.runtime.process import set_allocator

    torch.set_num_threads(1)
    torch.manual_seed(0)
    set_allocator(gives_back=False)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        pipe.send(seconds(job))
