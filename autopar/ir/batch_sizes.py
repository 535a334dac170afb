"""For which numbers of rows a program holds.

    Sizes(least=7)                     7 rows or more
    Sizes(most=512, multiple=4)        up to 512 rows, a multiple of 4
    Sizes(least=6, most=6)             6 rows only

The facts come from the capture (`autopar.capture.validity.symbolic_rows`); the runtime asks for every batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from autopar.ir.layout import even_bounds


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers n of rows with least <= n <= most, n = remainder modulo multiple, and n not among `without`.

    `most` is 0 where there is no bound. `why` says of every limit which line of the model asks for it.
    """

    least: int = 1
    most: int = 0
    multiple: int = 1
    remainder: int = 0
    without: tuple[int, ...] = ()
    why: tuple[str, ...] = ()

    def accepts(self, rows: int) -> bool:
        """Whether the program holds for so many rows.

        >>> [n for n in range(20) if Sizes(least=3, most=15, multiple=4, without=(8,)).accepts(n)]
        [4, 12]
        """
        inside = self.least <= rows and (rows <= self.most or not self.most)
        return inside and rows % self.multiple == self.remainder and rows not in self.without

    def __str__(self) -> str:
        """In words.

        >>> str(Sizes()), str(Sizes(2)), str(Sizes(2, 8, 4)), str(Sizes(5, 5)), str(Sizes(multiple=2, remainder=1, without=(7,)))
        ('any number of rows', '2 rows or more', '2 to 8 rows, a multiple of 4', '5 rows only', '1 row or more, 2 k + 1, not 7')
        """
        first = f"{self.least} row{'s' * (self.least != 1)}"
        parts = [f"{self.least} to {self.most} rows" if self.most else f"{first} or more"]
        if self.least == self.most:
            parts = [f"{first} only"]
        if self.multiple > 1:
            parts.append(
                f"{self.multiple} k + {self.remainder}" if self.remainder else f"a multiple of {self.multiple}"
            )
        if self.without:
            parts.append(f"not {', '.join(map(str, self.without))}")
        return "any number of rows" if parts == ["1 row or more"] else ", ".join(parts)


ANY = Sizes()


@dataclass(frozen=True, slots=True)
class MicrobatchPlan:
    """How a batch is divided into micro-batches, and what makes them one again.

    `rows` are those of the largest micro-batch, for which the program was planned; `why` says why there are so many.
    `counts` are the dtypes of the counts that the program computes of the whole batch first, `outputs` says how each output
    lies over the micro-batches (`autopar.ir.graph.BatchDivision`).
    """

    microbatches: int
    rows: int
    why: str = ""
    counts: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def microbatch_bounds(rows: int, most: int, step: int, accepts: Callable[[int], bool]) -> tuple[int, ...]:
    """Where a batch is cut into `most` micro-batches, or fewer where it has fewer rows; nothing where no cut fits.

    Each has a number of rows that the program `accepts`, a multiple of `step`; they differ by one step at most, the larger first.

    >>> microbatch_bounds(7, 3, 1, Sizes().accepts), microbatch_bounds(2, 3, 1, Sizes().accepts)
    ((0, 3, 5, 7), (0, 1, 2))
    >>> microbatch_bounds(12, 4, 4, Sizes(4, multiple=4).accepts), microbatch_bounds(7, 2, 1, (4).__eq__)
    ((0, 4, 8, 12), ())
    """
    steps, rest = divmod(rows, step)
    for parts in range(0 if rest else min(most, steps), 0, -1):
        bounds = even_bounds(steps, parts)
        if all(accepts((high - low) * step) for low, high in itertools.pairwise(bounds)):
            return tuple(bound * step for bound in bounds)
    return ()


def divided_rows(rows: int, compiled: int, division: MicrobatchPlan, fixed: str, sizes: Sizes) -> tuple[int, ...]:
    """Where a batch of so many rows is cut into the plan's micro-batches; nothing where the program does not take it.

    The whole batch, too, must be one of which the model computes what it computes of `compiled` rows: the program is to give its
    numbers. A program that is `fixed` is for that number of rows, and for micro-batches of those that it was planned for.
    """
    if rows != compiled and (fixed or not sizes.accepts(rows)):
        return ()
    if fixed:
        return microbatch_bounds(rows, rows // division.rows, division.rows, division.rows.__eq__)
    step = sizes.multiple if not sizes.remainder else 1
    return microbatch_bounds(
        rows, division.microbatches, step, lambda part: part == division.rows or sizes.accepts(part)
    )
