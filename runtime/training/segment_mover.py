"""Segments of a divided program, measured and moved between positions: the live side of `segment_balance`."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.errors import AutoparError
from autopar.ir.pipeline.schedule import parse_schedule
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
        """Move segments after a step where that pays. Gives a line about it and the bytes of the move, or nothing. Collective."""
        table = self._pipeline_of(self._parallel)
        places = [segment.at for segment in table.segments]
        move = self._balancer.consider(places, parse_schedule(table.schedule), lambda size: size * byte_seconds)
        if move is None:
            return "", 0.0
        moves, reason = move.moves(places), self.reason
        try:
            self._parallel.move_segments(moves, optimizers, move.lists)
        except AutoparError as error:  # alike on all ranks, before anything has moved
            self._balancer.refused(f"{reason}; segments cannot move: {str(error).splitlines()[0]}")
            return "", 0.0
        self._balancer.moved()
        self._before = [0.0] * len(places)
        where = ", ".join(f"{table.segments[s].function.__name__} to position {q}" for s, q in moves.items())
        return (
            f"{where}: {reason}; {move.before * 1e3:.1f} ms per step simulated, {move.after * 1e3:.1f} now",
            move.bytes,
        )

    @staticmethod
    def _pipeline_of(parallel: Parallel) -> Pipeline:
        forward = parallel.program.forward
        assert isinstance(forward, Pipeline), "a program on a grid with a place axis is divided"
        return forward
