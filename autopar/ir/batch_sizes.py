"""For which numbers of rows a program holds.

    Sizes(least=7)                     7 rows or more
    Sizes(most=512, multiple=4)        up to 512 rows, a multiple of 4
    Sizes(least=6, most=6)             6 rows only

The facts come from the capture (`autopar.capture.validity.symbolic_rows`); the runtime asks for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass


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
