"""Moves the boundaries of a grid's axes, and segments of a divided graph, between steps, so that slower ranks get less to do.

    scheduler = Scheduler(parallel, optimizer)
    for batch in batches:
        with scheduler.step():
            ...                      # forward, backward, optimizer

Compute seconds of a step are its wall seconds less those spent inside communication calls; processor time would not
do, since a rank that waits in MPI is busy. All ranks exchange what they measured, after every step where this costs little. Where
these numbers say that a rank may be slow, rank 0 decides (`autopar.runtime.training.load_balance`) and tells the others. What a
rank alone knows, how much it would hold and send, is exchanged before a move. The numbers that the program computes do not
depend on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch

from autopar.partitioner.cuts.rank_work import GridCuts
from autopar.runtime.diagnostics.collective_errors import by_rank0
from autopar.runtime.grid.link_times import line_seconds, lines_of
from autopar.runtime.parameters.moving.contents import Optimizers
from autopar.runtime.parameters.moving.legal_cuts import Boundaries, cuts_of, illegal
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training import balance_lines
from autopar.runtime.training.balance_settings import BalanceSettings
from autopar.runtime.training.load_balance import Balancer, CurrentCuts, Move, move_of, plain
from autopar.runtime.training.planned_work import cut_extents, planned_work
from autopar.runtime.training.segment_mover import SegmentMover

_OVERHEAD = 0.005  # of a step, for what is exchanged and worked out
_MOST_STEPS = 8  # between two exchanges
_SAVED = 128  # steps whose allowance may be spent at once: a move is worked out in a few steps, and seldom
_BYTE_SECONDS = 1e-9  # of a move, as long as none has been made
_PARTS = (1.0, 0.5, 0.25)  # of a move, if ranks have no room for all of it


class Scheduler:
    """Measures steps and moves boundaries of a `Parallel`. `moves` are those made, each with the step before it.

    `lines` tell of these, and of segments that moved; `tell` is given each. `reason` says what was decided last and why. `idle`:
    nothing can ever move.
    """

    def __init__(
        self,
        parallel: Parallel,
        optimizer: Optimizers = None,
        settings: BalanceSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.moves: list[tuple[int, Move]] = []
        self.lines: list[str] = []
        self._parallel = parallel
        self.optimizers = optimizer
        self._clock = clock
        self._tell = tell
        settings = settings or BalanceSettings()
        step = planned_work(parallel)
        self._extents = cut_extents(step)
        self.reason = nothing_to_move(parallel, self._extents)
        self.idle = bool(self.reason)
        self._balancer = (
            Balancer(step, settings, self._cuts(), self._of_rank0) if any(self._extents) and not self.idle else None
        )
        self._segments = SegmentMover(parallel, settings) if not self.idle and SegmentMover.fits(parallel) else None
        self._mine: list[
            list[float]
        ] = []  # of steps that have not been exchanged: compute, wall, communication by axis, and segments' seconds
        self._links = lines_of(parallel.grid.shape) if parallel.grid.place is None and not self.idle else ()
        self._steps = 0
        self._every = 1  # steps between two exchanges
        self._spent = 0.0  # seconds that the last exchange took, with what was worked out
        self._moving = 0.0  # of these, moving
        self._allowance = math.inf  # seconds that may be spent
        self._byte_seconds = _BYTE_SECONDS

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure the body as one step, and move boundaries after it when that pays. Collective."""
        start = self.now()
        yield
        self.took(start, self.now())

    def now(self) -> tuple[float, ...]:
        """The clock, and the seconds that this rank has communicated so far, in all and by axis."""
        links = axis_seconds(self._parallel) if self._links else ()
        return self._clock(), self._parallel.communication_seconds, *links

    def took(self, start: tuple[float, ...], end: tuple[float, ...]) -> None:
        """A step lasted from `start` to `end`, each what `now` said; move boundaries when that pays. Collective."""
        wall, waited, *links = (after - before for before, after in zip(start, end, strict=True))
        self._steps += 1
        if not self.idle:
            self._mine.append([wall - waited, wall, *links, *(self._segments.seconds() if self._segments else ())])
            if len(self._mine) >= self._every:
                self._exchange()

    def _exchange(self) -> None:
        """Tell the other ranks, hear from them, and decide."""
        start = self._clock()
        width = len(self._mine[0])
        told = self._gathered([*(number for step in self._mine for number in step), self._spent])
        steps = [[one[i : i + width] for one in told] for i in range(0, len(self._mine) * width, width)]
        self._mine = []
        for ranks in steps:
            if self._balancer is not None:
                self._balancer.observe([one[0] for one in ranks], max(one[1] for one in ranks), self._cuts())
                if self._parallel.grid.place is None:
                    links = line_seconds(self._links, [one[2:] for one in ranks])
                    self._balancer.communicated(min(one[1] - one[0] for one in ranks), links)
            if self._segments is not None:
                self._segments.observe([one[2:] for one in ranks])  # a grid with positions has no lines
        self._every = self._affordable(
            len(steps), min(max(one[1] for one in ranks) for ranks in steps), min(one[-1] for one in told)
        )
        self._decide()
        self._spent = self._clock() - start - self._moving
        self._moving = 0.0

    def _affordable(self, steps: int, wall: float, spent: float) -> int:
        """The steps until the next exchange, so that all of them together take little of these steps' time."""
        allowed = _OVERHEAD * wall
        self._allowance = min(self._allowance + steps * allowed - spent, _SAVED * allowed)
        return min(max(1, math.ceil(-self._allowance / allowed)), _MOST_STEPS) if allowed else 1

    def _decide(self) -> None:
        """Move boundaries, or else segments."""
        if self._balancer is not None:
            decision = self._balancer.consider(CurrentCuts(self._cuts(), self._extents, self._legal))
            self.reason = decision.reason
            moves = () if self._balancer.calm else self._agreed(self._balancer, decision.move)
            if moves:
                return self._make(self._balancer, moves)
        if self._segments is not None:
            start = self._clock()
            line, size = self._segments.consider(self._steps, self._byte_seconds, self.optimizers)
            self.reason = self._segments.reason if self._balancer is None else self.reason
            if line:
                self._timed(start, size)
                self._note(line)
                if self._balancer is not None:
                    self._balancer.replan(planned_work(self._parallel))
        return None

    def _agreed(self, balancer: Balancer, move: Move | None) -> tuple[Move, ...]:
        """The move that rank 0 has decided on, and parts of it; nothing where it moves nothing. Collective."""
        comm = self._parallel.grid.comm
        flag = torch.tensor([move is not None])
        comm.broadcast(flag, 0)
        if not flag.item():
            return ()

        def parts() -> object:
            assert move is not None
            return [plain(balancer.partway(move, part) if part < 1 else move) for part in _PARTS]

        return tuple(map(move_of, by_rank0(comm, "moving boundaries", parts)))

    def _of_rank0(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        """The numbers as rank 0 has them. Collective."""
        told = torch.tensor(numbers, dtype=torch.float64)
        self._parallel.grid.comm.broadcast(told, 0)
        return tuple(told.tolist())

    def _note(self, line: str) -> None:
        self.lines.append(line)
        self._tell(line)

    def _timed(self, start: float, size: float) -> None:
        """Learn what a byte takes from a move of so many. Collective."""
        self._moving = self._clock() - start
        took = max(one[0] for one in self._gathered([self._moving]))
        self._byte_seconds = took / size if size else self._byte_seconds

    def _make(self, balancer: Balancer, moves: Sequence[Move]) -> None:
        """Make the first of some moves for which ranks have room, if it pays. Collective."""
        for move in moves:
            cuts = self._named(move.cuts)
            lines = self._parallel.objections(cuts, self.optimizers)
            told = self._parallel.grid.comm.gather_objects(
                [lines, max(self._parallel.moved_bytes(cuts, self.optimizers))]
            )
            said = cast("list[tuple[list[str], int]]", told)
            size, against = max(one[1] for one in said), [line for one in said for line in one[0]]
            if not against:
                break
        price = size * self._byte_seconds
        if against:
            balancer.refused(moves[0], f"there is no room: {against[0]}")
        elif not balancer.worth(move, price):
            balancer.refused(moves[0], f"moving {size / 1e6:.1f} MB takes about {price:.2g} s")
        else:
            start = self._clock()
            self._parallel.rebalance(cuts, self.optimizers)
            self._timed(start, size)
            balancer.moved(move)
            self.moves.append((self._steps, move))
            self._note(balance_lines.moved(self._parallel.grid.shape.names, self._steps, move))

    def _gathered(self, mine: list[float]) -> list[list[float]]:
        """Numbers of every rank. Collective."""
        comm, own = self._parallel.grid.comm, torch.tensor(mine, dtype=torch.float64)
        every = [torch.empty_like(own) for _ in range(comm.size)]
        comm.all_gather(own, every)
        return [one.tolist() for one in every]

    def _cuts(self) -> GridCuts:
        return tuple(axis.cuts for axis in self._parallel.grid.axes)

    def _named(self, cuts: GridCuts) -> Boundaries:
        return {axis.name: at for axis, at in zip(self._parallel.grid.axes, cuts, strict=True) if at != axis.cuts}

    def _legal(self, cuts: GridCuts) -> bool:
        return not illegal(self._parallel.grid.axes, cuts_of(self._named(cuts)), self._parallel.filled)


def axis_seconds(parallel: Parallel) -> list[float]:
    """Wall seconds that this rank has spent in communication over every axis alone so far."""
    sums = parallel.sum_seconds
    return [axis.comm.seconds + sums.get((i,), 0.0) for i, axis in enumerate(parallel.grid.axes)]


def nothing_to_move(parallel: Parallel, extents: tuple[tuple[int, ...], ...]) -> str:
    """Why nothing can ever move; nothing where something can."""
    if parallel.grid.size == 1:
        return "there is one rank"
    if parallel.grid.shape.queue is not None:
        return "the replicas draw their micro-batches from a queue, fast ones more"
    if not any(extents) and not SegmentMover.fits(parallel):
        return "no call is split over an axis: there is no boundary to move"
    return ""
