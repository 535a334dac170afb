"""Which operand rows some result rows of a windowed operator read, along one dim: pure arithmetic.

Rows are counted from 0 to n - 1; positions are rows of the operand continued at both ends by padding. Result row j of

    StridedWindow      a convolution or pooling    reads positions j s - p + d i for 0 <= i < k
    TransposedWindow   a transposed convolution    is added to from the rows r with j = r s - p + d i, some 0 <= i < k
    Shift              a padding (or cropping)     is position j - p

so that result rows [a, b) need one interval of positions each. Where a position lies outside [0, n), the mode says
which row it shows: none (a given value), or

    replicate  min(max(q, 0), n - 1)      reflect  |q|, then n - 1 - |n - 1 - q|      circular  q mod n

Replicate and reflect send an interval of positions to an interval of rows, circular to one or two.
"""

# ruff: noqa: D102  (the methods of a field are described once, in `ReceptiveField`)

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.exchange_plan import Interval, Intervals

MODES = ("zeros", "reflect", "replicate", "circular")  # "zeros" stands for any given value


class ReceptiveField(Protocol):
    """How the rows of a result depend on those of the operand."""

    def extent(self, n: int) -> int:
        """How many result rows there are for n operand rows."""

    def reads(self, n: int, rows: Interval) -> Interval:
        """The positions that these result rows, at least one, read of n operand rows."""

    def margins(self, n: int) -> Interval:
        """How far all result rows together may reach before row 0 and beyond row n - 1."""


@dataclass(frozen=True, slots=True)
class StridedWindow:
    """A plain window.

    >>> StridedWindow(kernel=5, padding=2).extent(11), StridedWindow(kernel=5, padding=2).reads(11, (0, 4))
    (11, (-2, 6))
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    ceil: bool = False  # whether a last window that reaches beyond the padding counts, if it begins before it

    def extent(self, n: int) -> int:
        free = n + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        if not self.ceil:
            return max(0, free // self.stride + 1)
        rows = -(-free // self.stride) + 1
        return max(0, rows - 1 if (rows - 1) * self.stride >= n + self.padding else rows)

    def reads(self, n: int, rows: Interval) -> Interval:
        first = rows[0] * self.stride - self.padding
        return first, first + (rows[1] - rows[0] - 1) * self.stride + self.dilation * (self.kernel - 1) + 1

    def margins(self, n: int) -> Interval:
        return self.padding, max(self.padding, self.reads(n, (0, self.extent(n)))[1] - n) if self.ceil else self.padding


@dataclass(frozen=True, slots=True)
class TransposedWindow:
    """A transposed window: operand row r adds to the rows ``r s - p + d i``; `extra` rows are appended.

    Positions outside the operand show zeros. They are read where the stride leaves gaps, so that what the rows read
    add to covers the result rows.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    extra: int = 0

    def extent(self, n: int) -> int:
        return (n - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + 1 + self.extra

    def reads(self, n: int, rows: Interval) -> Interval:
        span, s, p = self.dilation * (self.kernel - 1), self.stride, self.padding
        a, b = rows
        # the first row that adds to one of ours, or starts no later; the last that does, or the first that ends no earlier
        low = min(-((span - a - p) // s), (a + p) // s)
        high = max((b - 1 + p) // s, -((span + 1 - b - p) // s))
        return low, high + 1

    def margins(self, n: int) -> Interval:
        low, high = self.reads(n, (0, max(1, self.extent(n))))
        return max(0, -low), max(0, high - n)


@dataclass(frozen=True, slots=True)
class Shift:
    """`low` positions put before the operand and `high` behind it; negative numbers cut off."""

    low: int
    high: int

    def extent(self, n: int) -> int:
        return max(0, n + self.low + self.high)

    def reads(self, n: int, rows: Interval) -> Interval:
        return rows[0] - self.low, rows[1] - self.low

    def margins(self, n: int) -> Interval:
        return self.low, self.high


def shown(positions: Interval, n: int, mode: str) -> Intervals:
    """The rows that these positions show, in the order of the positions where they are several pieces.

    With mode zeros the positions themselves: those outside are not rows but padding.

    >>> shown((-2, 3), 10, "reflect"), shown((-2, 3), 10, "circular")
    (((0, 3),), ((8, 10), (0, 3)))
    """
    start, stop = positions
    if start >= stop:
        return ()
    if mode == "zeros":
        return (positions,)
    if mode == "circular":
        low = start % n
        high = low + stop - start
        if stop - start > n:
            return ((0, n),)
        return ((low, high),) if high <= n else ((low, n), (0, high - n))
    ends = [shown_row(start, n, mode), shown_row(stop - 1, n, mode)]
    ends += [row for row in (0, n - 1) if start <= row < stop]
    return ((min(ends), max(ends) + 1),)


def shown_row(position: int, n: int, mode: str) -> int:
    """The row that one position shows; not for mode zeros."""
    if mode == "circular":
        return position % n
    if mode == "replicate":
        return min(max(position, 0), n - 1)
    return n - 1 - abs(n - 1 - abs(position))


def inside(positions: Interval, n: int) -> tuple[int, Interval, int]:
    """How many of these positions lie before row 0, which are rows, and how many lie beyond the last.

    >>> inside((-3, 2), 5), inside((6, 8), 5)
    ((3, (0, 2), 0), (0, (5, 5), 2))
    """
    start, stop = positions
    low, high = min(max(start, 0), n), min(max(stop, 0), n)
    return max(0, min(stop, 0) - start), (low, high), max(0, stop - max(start, n))


def check_mode(where: str, mode: str, reach: ReceptiveField, n: int) -> None:
    """Refuse a padding that torch refuses: a mirror shows each row once, a ring goes round once. Raises ConfigError."""
    if mode not in MODES:
        raise ConfigError(refusal(where, f"has padding mode {mode!r}", f"the modes are {', '.join(MODES)}"))
    most = {"reflect": n - 1, "circular": n}.get(mode)
    if most is not None and max(reach.margins(n)) > most:
        rule = f"with mode {mode}, a dim of {n} rows takes at most {most} rows of padding at an end"
        raise ConfigError(refusal(where, f"is padded by {max(reach.margins(n))}", rule))
    if mode == "replicate" and n == 0:
        raise ConfigError(refusal(where, "has no rows", "there is a row to replicate"))
