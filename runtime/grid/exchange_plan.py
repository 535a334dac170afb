"""Who sends which rows to whom when every rank of an axis wants some intervals of a dim: pure arithmetic.

Rank i owns the rows O_i = [bounds[i], bounds[i+1]) of n. Rank j wants intervals W_j1, W_j2, ..., one after another in
its buffer; what of them lies outside [0, n) is padding. A `RowRun` is a stretch of rows that lies in one piece both in
the part of its owner and in the buffer of the one who wants it: the meeting of O_i with W_jk. The runs from i to j are

    one message              for i != j, its rows one after another
    what rank j keeps        for i == j

and what O_i has beyond its own runs is left behind. No row is twice in the buffer of one rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Interval = tuple[int, int]  # rows from the first up to, and without, the second
Intervals = tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class RowRun:
    """`count` rows that begin at row `source` of their owner's part and at row `target` of the buffer."""

    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """What one rank does in an exchange; sends and receipts name the other rank.

    `padding` are rows of the buffer, `left` the rows of its own part that it does not keep.
    """

    owned: int
    wanted: int
    padding: tuple[Interval, ...]
    kept: tuple[RowRun, ...]
    left: tuple[Interval, ...]
    sends: tuple[tuple[int, tuple[RowRun, ...]], ...]
    recvs: tuple[tuple[int, tuple[RowRun, ...]], ...]

    @property
    def is_identity(self) -> bool:
        """Whether the buffer is the part itself, and nobody else wants anything of it."""
        whole = (RowRun(0, 0, self.owned),) if self.owned else ()
        return self.owned == self.wanted and self.kept == whole and not self.sends


@lru_cache(maxsize=4096)
def plan_exchange(rank: int, bounds: tuple[int, ...], wanted: tuple[Intervals, ...]) -> ExchangePlan:
    """What `rank` does when rank i owns the rows ``bounds[i]:bounds[i+1]`` and wants the pieces ``wanted[i]``."""
    owned = list(itertools.pairwise(bounds))
    others = [i for i in range(len(wanted)) if i != rank]
    assert _disjoint(wanted[rank]), f"rank {rank} wants a row twice: {wanted[rank]}"
    sends = ((i, _runs(owned[rank], wanted[i])) for i in others)
    recvs = ((i, _runs(owned[i], wanted[rank])) for i in others)
    kept = _runs(owned[rank], wanted[rank])
    return ExchangePlan(
        owned[rank][1] - owned[rank][0],
        sum(stop - start for start, stop in wanted[rank]),
        tuple(_outside(bounds[-1], wanted[rank])),
        kept,
        tuple(_left(owned[rank][1] - owned[rank][0], kept)),
        tuple((i, runs) for i, runs in sends if runs),
        tuple((i, runs) for i, runs in recvs if runs),
    )


def rows_in(runs: Sequence[RowRun]) -> int:
    """How many rows they are."""
    return sum(run.count for run in runs)


def _runs(owned: Interval, pieces: Intervals) -> tuple[RowRun, ...]:
    runs, offset = [], 0
    for start, stop in pieces:
        low, high = max(owned[0], start), min(owned[1], stop)
        if low < high:
            runs.append(RowRun(low - owned[0], offset + low - start, high - low))
        offset += stop - start
    return tuple(runs)


def _outside(extent: int, pieces: Intervals) -> list[Interval]:
    """The rows of the buffer that are padding."""
    padding, offset = [], 0
    for start, stop in pieces:
        for low, high in ((start, min(stop, 0)), (max(start, extent), stop)):
            if low < high:
                padding.append((offset + low - start, offset + high - start))
        offset += stop - start
    return padding


def _left(rows: int, kept: Sequence[RowRun]) -> list[Interval]:
    gaps, done = [], 0
    for run in sorted(kept, key=lambda run: run.source):
        gaps.append((done, run.source))
        done = run.source + run.count
    return [(low, high) for low, high in (*gaps, (done, rows)) if low < high]


def _disjoint(pieces: Intervals) -> bool:
    return all(a[1] <= b[0] for a, b in itertools.pairwise(sorted(piece for piece in pieces if piece[0] < piece[1])))
