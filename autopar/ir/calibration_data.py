"""What a calibration measures, as it stands in its raw file: records alone, which the ranks write and the cost model reads.

    Moved      how long one primitive takes to move so many bytes
    Computed   how long one computation takes
    Raw        one calibration: all of both, and where its ranks were

The file is `Measurements` as JSON, its fields in this order. Seconds come once per repeat, on the slowest rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

VERSION = 2


@dataclass(frozen=True, slots=True)
class TimedMove:
    """Seconds of `primitive` in `direction` (``forward`` or ``adjoint``), once per repeat, on the slowest rank.

    place is ``intra``, ``inter``, or ``local`` where nothing is sent; ranks those of one group; before and after the
    bytes of the local tensor on both sides of the primitive. Beside the primitives of the conversion table there are
    ``halo`` (bytes of the rows that a rank gets), ``gradient_sum`` (bytes of the gradients) and ``message`` (two ranks exchange).
    """

    primitive: str
    direction: str
    place: str
    ranks: int
    before: int
    after: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TimedComputation:
    """Seconds of one call, once per repeat, on the slowest rank.

    kind is ``operator``, ``memory``, ``floor`` or ``update``. Of an operator, work is its class and direction ``forward``
    or ``backward``; of an update, work is the optimizer. amount counts operations of an operator, operators of a floor, and
    otherwise bytes read and written.
    """

    kind: str
    name: str
    work: str
    dtype: str
    direction: str
    amount: float
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured. `places` has for every rank the first rank of its node; cores are those of the smallest node.

    What a rank does by itself (`computed`, and local movements) was done by as many ranks of a node as have a core each, and
    what is sent by all ranks at once. overlap is None where there is no such link. alone has the seconds of one computation,
    once per repeat, of every rank by itself, stopped for how many seconds it computed while it was watched for stalls, how many
    there were, and their seconds; both are empty where ranks share cores, and stopped in a quick trial.
    """

    version: int
    quick: bool
    places: tuple[int, ...]
    cores: int
    software: str
    seconds: float
    moved: tuple[TimedMove, ...]
    computed: tuple[TimedComputation, ...]
    overlap_intra: float | None
    overlap_inter: float | None
    alone: tuple[tuple[float, ...], ...] = ()
    stopped: tuple[tuple[float, float, float], ...] = ()

    @property
    def ranks_per_node(self) -> int:
        """Alike on all nodes."""
        return self.places.count(self.places[0])

    @property
    def hosts(self) -> int:
        """How many nodes there were."""
        return len(set(self.places))


def spread(seconds: Sequence[float]) -> float:
    """The distance between the quartiles of the repeats, as a part of their median."""
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return (high - low) / median(seconds)
