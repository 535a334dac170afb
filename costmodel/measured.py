"""What `autopar.runtime.calibration` writes: the records, and reading them. The two agree on names and on `VERSION`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import msgspec

from autopar.costmodel.communication import MOVES
from autopar.errors import ConfigError, refusal

VERSION = 1
_OTHERS = {"halo": "halo", "gradient_sum": "gradient_sum", "message": "message"}


@dataclass(frozen=True, slots=True)
class Moved:
    """Seconds of a primitive in one direction at one size, once per repeat; before and after are bytes."""

    primitive: str
    direction: str
    place: str
    ranks: int
    before: int
    after: int
    seconds: tuple[float, ...]

    @property
    def move(self) -> str:
        """The movement that this is, see `autopar.costmodel.communication`; ``message`` is a plain exchange."""
        if self.primitive in _OTHERS:
            return _OTHERS[self.primitive]
        return MOVES[self.primitive][self.direction == "adjoint"]

    @property
    def bytes(self) -> float:
        """By which the movement is priced."""
        if self.move == "slice":
            return float(min(self.before, self.after))
        return float(self.before + self.after if self.move == "fill" else max(self.before, self.after))


@dataclass(frozen=True, slots=True)
class Computed:
    """Seconds of a computation, once per repeat; kind is operator, memory, floor or update."""

    kind: str
    name: str
    work: str
    dtype: str
    direction: str
    amount: float
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """What it does per second."""
        return self.amount / median(self.seconds)


@dataclass(frozen=True, slots=True)
class Raw:
    """One calibration's measurements; places has for every rank the first rank of its node."""

    version: int
    quick: bool
    places: tuple[int, ...]
    cores: int
    software: str
    seconds: float
    moved: tuple[Moved, ...]
    computed: tuple[Computed, ...]
    overlap_intra: float | None
    overlap_inter: float | None

    @property
    def ranks_per_node(self) -> int:
        """Alike on all nodes."""
        return self.places.count(self.places[0])

    @property
    def hosts(self) -> int:
        """How many nodes there were."""
        return len(set(self.places))


def spread(seconds: tuple[float, ...]) -> float:
    """The distance between the quartiles of the repeats, as a part of their median."""
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return (high - low) / median(seconds)


def read(path: Path) -> Raw:
    """The measurements in a file. Raises ConfigError where it is none, or another version's."""
    where, fix = f"measurements {str(path)!r}", "write it by `mpiexec ... -m autopar.runtime.calibration --out FILE`"
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=Raw)
    except (OSError, msgspec.MsgspecError) as error:
        rule = "measurements are a file that the calibration's ranks have written"
        raise ConfigError(refusal(where, "cannot be read", rule, [str(error)], fix)) from error
    wrong = list(_wrong(raw))
    if wrong:
        rule = "every time is a positive number of seconds, of a primitive that is known"
        raise ConfigError(refusal(where, f"{len(wrong)} entries are wrong", rule, wrong, fix))
    return raw


def _wrong(raw: Raw) -> list[str]:
    if raw.version != VERSION:
        return [f"version {raw.version}, where this autopar reads version {VERSION}"]
    found = ["no places"] * (not raw.places) + [f"{raw.cores} cores"] * (raw.cores < 1)
    known = {*MOVES, *_OTHERS}
    found += sorted({f"{one.primitive!r} is no primitive" for one in raw.moved if one.primitive not in known})
    timed = [(one.primitive, one.seconds) for one in raw.moved] + [(one.name, one.seconds) for one in raw.computed]
    found += [
        f"{name}: {list(seconds)} seconds"
        for name, seconds in timed
        if not seconds or not all(0 < one < math.inf for one in seconds)
    ]
    return found
