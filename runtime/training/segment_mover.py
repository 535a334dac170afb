"""Segments of a divided program, measured and moved between positions: the live side of `segment_balance`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autopar.errors import AutoparError
from autopar.ir.pipeline.schedule import format_schedule, parse_schedule
from autopar.runtime.diagnostics.collective_errors import by_rank0
from autopar.runtime.parameters.moving.contents import Optimizers
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.balance_settings import BalanceSettings


class SegmentMover:
    """Looks at the segments of a `Parallel` and moves them. Every rank has one."""

    def __init__(self, parallel: Parallel, settings: BalanceSettings) -> None:
        from autopar.runtime.pipeline.segment_costs import segment_problem
        from autopar.runtime.training.segment_balance import SegmentBalancer  # a run without places loads no schedules

        count = len(self._pipeline_of(parallel).segments)
        problem = segment_problem(parallel.description, parallel.parameter_layouts, parallel.grid.axes, count)
        self._parallel = parallel
        self._balancer = SegmentBalancer(problem, settings)
        self._before = [0.0] * count

    @staticmethod
    def fits(parallel: Parallel) -> bool:
        """Whether there are segments that could stand elsewhere."""
        plan = parallel.description.placement
        return parallel.grid.place is not None and plan is not None and len(plan.segments) > 1

    @property
    def reason(self) -> str:
        """What was decided last, and why."""
        return self._balancer.reason

    def seconds(self) -> list[float]:
        """What the segments took on this rank since this was asked last."""
        now = list(self._parallel.segment_seconds)
        spent = [after - before for after, before in zip(now, self._before, strict=True)]
        self._before = now
        return spent

    def observe(self, ranks: Sequence[Sequence[float]]) -> None:
        """A step: the seconds of every segment on every rank."""
        self._balancer.observe([max(column) for column in zip(*ranks, strict=True)])

    def consider(self, step: int, byte_seconds: float, optimizers: Optimizers) -> tuple[str, float]:
        """Move segments after a step where that pays. Gives a line about it and the bytes of the move, or nothing. Collective.

        Rank 0 decides for all: logarithms and equations may differ in their last bits on another kind of processor.
        """
        table, comm = self._pipeline_of(self._parallel), self._parallel.grid.comm
        places = [segment.at for segment in table.segments]
        found: list[object] = []
        if comm.rank == 0:
            move = self._balancer.consider(places, parse_schedule(table.schedule), lambda size: size * byte_seconds)
            if move is not None:
                worth = [move.before, move.after, move.bytes]
                found = [list(move.places), format_schedule(move.lists), self.reason, worth]
        flag = torch.tensor([len(found)])
        comm.broadcast(flag, 0)
        if not flag.item():
            return "", 0.0
        there, text, reason, (before, after, size) = by_rank0(comm, "moving segments", lambda: found)
        moves = {s: q for s, (q, at) in enumerate(zip(there, places, strict=True)) if q != at}
        try:
            self._parallel.move_segments(moves, optimizers, parse_schedule(text))
        except AutoparError as error:  # alike on all ranks, before anything has moved
            self._balancer.refused(f"{reason}; segments cannot move: {str(error).splitlines()[0]}")
            return "", 0.0
        self._balancer.moved()
        self._before = [0.0] * len(places)
        where = ", ".join(f"{table.segments[s].function.__name__} to position {q}" for s, q in moves.items())
        return f"{where}: {reason}; {before * 1e3:.1f} ms per step simulated, {after * 1e3:.1f} now", float(size)

    @staticmethod
    def _pipeline_of(parallel: Parallel) -> Pipeline:
        forward = parallel.program.forward
        assert isinstance(forward, Pipeline), "a program on a grid with a place axis is divided"
        return forward
