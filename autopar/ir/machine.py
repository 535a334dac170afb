"""A machine profile: from a TOML file to a frozen record of rates, latencies and sizes, all per MPI rank.

A profile says how fast one rank computes (peak per dtype times an efficiency per class of work, memory bandwidth, and a
floor per operator) and how fast two ranks exchange (alpha seconds per message, beta bytes per second) inside a node and
between nodes. `beta` is what one rank gets while all ranks of its node communicate at once. A profile may also hold what
`autopar calibrate` has measured: seconds of every kind of movement as a function of its bytes (`Fit`), which then
take the place of the formulas. Nothing is measured while a model is compiled: the same profile gives the same plan
everywhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir import machine_schema
from autopar.ir.grid import GridShape
from autopar.ir.machine_schema import LINK_MOVES, LOCAL_MOVES, OPTIMIZERS, WORKS
from autopar.ir.units import parse_bytes

__all__ = [
    "LINK_MOVES",
    "LOCAL_MOVES",
    "OPTIMIZERS",
    "WORKS",
    "Fit",
    "Link",
    "Machine",
    "OperatorFactor",
    "RankClass",
    "check",
    "check_ranks",
    "crowding",
    "linked",
    "load",
    "parse_bytes",
    "shipped",
    "slowed",
    "table",
]

_FIX = "compare with a profile that ships with autopar, in autopar/configs/machines"


@dataclass(frozen=True, slots=True)
class Link:
    """What a message costs: `alpha` seconds to start, then `beta` bytes per second."""

    alpha: float
    beta: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Seconds of one kind of movement by its bytes, as measured: `alpha`, then pieces of constant rate.

    place   ``local`` (inside a rank's memory), ``intra`` (between ranks of a node) or ``inter``
    move    what moves, see `LOCAL_MOVES` and `LINK_MOVES`; docs/machines.md says which primitives
    ranks   of one group when it was measured; 1 for ``local``
    until   bytes at which the rate changes, rising
    beta    bytes per second up to ``until[0]``, from there to ``until[1]``, ..., and beyond the last

    The time is continuous and grows with the bytes.
    """

    place: str
    move: str
    ranks: int
    alpha: float
    until: tuple[float, ...]
    beta: tuple[float, ...]

    def pieces(self) -> list[tuple[float, float, float]]:
        """Every piece as (up to so many bytes, alpha, beta), where it takes alpha + bytes / beta."""
        segments = []
        alpha, last = self.alpha, None
        for beta, until in zip(self.beta, (*self.until, float("inf")), strict=True):
            if last is not None:
                alpha += last[0] / last[1] - last[0] / beta
            segments.append((until, alpha, beta))
            last = until, beta
        return segments


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that differ from the profile, as in ``"4-7"`` or ``"0,2"``: numbers of `ranks`, or of `nodes` whose ranks they are.

    `speed` is what they reach of the profile's rates, 0.5 where everything they compute takes twice as long. Memory and links
    are their own, or None where they are the profile's.
    """

    ranks: str = ""
    nodes: str = ""
    speed: float = 1.0
    memory_bytes: int | None = None
    intra: Link | None = None
    inter: Link | None = None

    @property
    def differs(self) -> bool:
        """Whether they compute at another speed or hold other memory than the profile says."""
        return self.speed != 1.0 or self.memory_bytes is not None

    def holds(self, rank: int, ranks_per_node: int) -> bool:
        """Whether a rank is one of them."""
        number = rank if self.ranks else rank // ranks_per_node
        return any(low <= number <= high for low, high in machine_schema.intervals(self.ranks or self.nodes))


@dataclass(frozen=True, slots=True)
class OperatorFactor:
    """How many times as long as the rates say calls of an operator (``"aten.addmm.default"``) take, forward and backward."""

    operator: str
    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One profile. Rates and sizes are those of one rank.

    name              of the profile
    ranks_per_node    consecutive ranks share a node
    memory_bytes      what one rank may hold
    memory_bandwidth  bytes per second, reads plus writes
    launch_floor      seconds that any operator takes
    overlap           share of the gradient sums that hides behind backward
    intra, inter      links between ranks of one node, and of two
    flops             peak operations per second by dtype
    efficiency        attainable share of the peak by class of work, see `WORKS`

    and, where known,

    cores_per_node       more ranks than these slow each other down (`crowding`)
    nodes                how many there are; larger grids are refused
    overlap_inter        `overlap` of sums between nodes, whose waiting takes no processor
    efficiency_backward  where it differs from `efficiency`
    update               bytes per second, reads plus writes, of an optimizer's step; otherwise memory_bandwidth
    fits                 measured times, which go before formulas
    ranks                those that are not like the others, each in one class at most
    stall_rate           how often a second a rank that computes is stopped by something else, at random, each apart from the others
    stall_seconds        for how long, in the mean
    operators            those that take longer or shorter than the rates say, as `autopar replan` has seen them
    """

    name: str
    ranks_per_node: int
    memory_bytes: int
    memory_bandwidth: float
    launch_floor: float
    overlap: float
    intra: Link
    inter: Link
    flops: tuple[tuple[str, float], ...]
    efficiency: tuple[tuple[str, float], ...]
    cores_per_node: int | None = None
    nodes: int | None = None
    overlap_inter: float | None = None
    efficiency_backward: tuple[tuple[str, float], ...] = ()
    update: tuple[tuple[str, float], ...] = ()
    fits: tuple[Fit, ...] = ()
    ranks: tuple[RankClass, ...] = ()
    stall_rate: float | None = None
    stall_seconds: float | None = None
    operators: tuple[OperatorFactor, ...] = ()

    @property
    def stalls(self) -> tuple[float, float]:
        """How often a second a rank is stopped, and for how many seconds; zeros where that is not known."""
        return self.stall_rate or 0.0, self.stall_seconds or 0.0

    def class_of(self, rank: int) -> RankClass:
        """What is known of a rank beside the profile."""
        return next((one for one in self.ranks if one.holds(rank, self.ranks_per_node)), RankClass())

    def speeds(self, size: int) -> tuple[float, ...]:
        """The speed of each of so many ranks: its share of the profile's rates."""
        return tuple(self.class_of(rank).speed for rank in range(size))

    def memories(self, size: int) -> tuple[int, ...]:
        """Bytes that each of so many ranks may hold."""
        every = (self.class_of(rank).memory_bytes for rank in range(size))
        return tuple(self.memory_bytes if own is None else own for own in every)

    def rate(self, work: str, dtype: str, backward: bool = False) -> float:
        """Operations per second that a class of work reaches; dtypes without a peak of their own count as float32."""
        peaks, shares = dict(self.flops), dict(self.efficiency)
        if backward:
            shares |= dict(self.efficiency_backward)
        return peaks.get(dtype, peaks["float32"]) * shares[work]

    def update_rate(self, optimizer: str) -> float:
        """Bytes per second that an optimizer's step reads and writes."""
        return dict(self.update).get(optimizer, self.memory_bandwidth)

    def factors(self, operator: str) -> tuple[float, float]:
        """How many times as long as the rates say a call of this operator takes, forward and backward."""
        for one in self.operators:
            if one.operator == operator:
                return one.forward, one.backward
        return 1.0, 1.0

    def fit(self, place: str, move: str) -> Fit | None:
        """What was measured of this movement, if anything."""
        for fit in self.fits:
            if fit.move == move and fit.place == place:
                return fit
        return None


_PLAIN = (
    *("name", "ranks_per_node", "cores_per_node", "nodes", "memory_bytes", "memory_bandwidth", "launch_floor"),
    *("overlap", "overlap_inter", "stall_rate", "stall_seconds"),
)
_PAIRS = ("flops", "efficiency", "efficiency_backward", "update")


def load(name_or_path: str | Path) -> Machine:
    """The profile that ships under this name, or the one in this TOML file.

    Raises ConfigError for an unknown name, a file that is not TOML, and a profile with unknown, missing, negative or
    non-numeric entries: all of them in one message.
    """
    text, where = _read(name_or_path)
    try:
        entries = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(refusal(where, f"not TOML: {error}", "a profile is a TOML file", fix=_FIX)) from error
    return _record(entries, where)


def check(machine: Machine) -> None:
    """Raise ConfigError unless the record's entries are such as those of a file must be."""
    _record(table(machine), f"machine profile {machine.name!r}")


def table(machine: Machine) -> dict[str, Any]:
    """The profile as the table that a TOML file holds; parts that are not known are left out."""
    entries: dict[str, Any] = {key: getattr(machine, key) for key in _PLAIN if getattr(machine, key) is not None}
    for key in ("intra", "inter"):
        link: Link = getattr(machine, key)
        entries[key] = {"alpha": link.alpha, "beta": link.beta}
    entries |= {key: dict(getattr(machine, key)) for key in _PAIRS if getattr(machine, key)}
    for fit in machine.fits:
        group = entries.setdefault("fits", {}).setdefault(
            fit.place, {} if fit.place == "local" else {"ranks": fit.ranks}
        )
        until = {"until": list(fit.until)} if fit.until else {}
        group[fit.move] = {"alpha": fit.alpha} | until | {"beta": list(fit.beta)}
    if machine.ranks:
        entries["ranks"] = [_class_table(one) for one in machine.ranks]
    if machine.operators:
        every = {one.operator: {"forward": one.forward, "backward": one.backward} for one in machine.operators}
        entries["operators"] = every
    return entries


def _class_table(one: RankClass) -> dict[str, Any]:
    which = {"ranks": one.ranks} if one.ranks else {"nodes": one.nodes}
    memory = {} if one.memory_bytes is None else {"memory_bytes": one.memory_bytes}
    links = {"intra": one.intra, "inter": one.inter}
    own = {key: {"alpha": link.alpha, "beta": link.beta} for key, link in links.items() if link is not None}
    return which | {"speed": one.speed} | memory | own


def shipped() -> tuple[str, ...]:
    """Names of the profiles that come with autopar."""
    folder = resources.files("autopar.configs") / "machines"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def _read(name_or_path: str | Path) -> tuple[str, str]:
    name = str(name_or_path)
    where = f"machine profile {name!r}"
    if name in shipped():
        return (resources.files("autopar.configs") / "machines" / f"{name}.toml").read_text("utf-8"), where
    if not (isinstance(name_or_path, Path) or name.endswith(".toml") or "/" in name):
        fix = f"use one of {', '.join(shipped())}, or the path of a .toml file"
        raise ConfigError(refusal(where, f"no such profile{nearest(name, shipped())}", "a profile exists", fix=fix))
    try:
        return Path(name).read_text("utf-8"), where
    except (OSError, UnicodeDecodeError) as error:
        rule = "a profile is a readable text file"
        raise ConfigError(refusal(where, "cannot be read", rule, [str(error)], _FIX)) from error


def _record(source: dict[str, Any], where: str) -> Machine:
    entries, wrong = machine_schema.read(source)
    if wrong:
        rule = "a profile has every entry, no other, and values that make sense"
        raise ConfigError(refusal(where, f"{len(wrong)} entries are wrong", rule, wrong, _FIX))
    links = _links(entries)
    pairs = {key: tuple(sorted(entries[key].items())) for key in _PAIRS}
    classes = tuple(RankClass(**(entry | _links(entry))) for entry in entries["ranks"])
    fits = tuple(Fit(**entry) for entry in entries["fits"])
    operators = tuple(OperatorFactor(name, **entry) for name, entry in entries["operators"].items())
    return Machine(**(entries | links | pairs | {"fits": fits, "ranks": classes, "operators": operators}))


def _links(entries: dict[str, Any]) -> dict[str, Link]:
    return {key: Link(**entries[key]) for key in ("intra", "inter") if key in entries}


def linked(machine: Machine, size: int) -> Machine:
    """The machine with the worst links that any of so many ranks has of its own, for exchanges in which all take part.

    What was measured of a link gets worse by as much as the link. Ranks of one node exchange by copies, half of which the slowest
    of them makes itself: where nothing is said of its link, that half takes as much longer as all that it does. (Beside a
    competitor, at a speed of 0.40, seven exchanges took 1.4 to 2.2 times as long, 1.74 times together; this says 1.75.)
    """
    classes = [machine.class_of(rank) for rank in range(size)] if machine.ranks else []
    if not any(one.intra or one.inter or one.speed < 1 for one in classes):
        return machine
    intra = _worst([one.intra or _copied(machine.intra, one.speed) for one in classes])
    inter = _worst([one.inter or machine.inter for one in classes])
    pairs = {"intra": (machine.intra, intra), "inter": (machine.inter, inter)}
    fits = tuple(_slower(fit, *pairs[fit.place]) if fit.place in pairs else fit for fit in machine.fits)
    others = tuple(
        replace(one, intra=intra if one.speed < 1 else None, inter=None) for one in machine.ranks if one.differs
    )
    return replace(machine, intra=intra, inter=inter, fits=fits, ranks=others)


def _copied(link: Link, speed: float) -> Link:
    """The link inside a node of a rank of this speed."""
    longer = (1 + 1 / min(speed, 1.0)) / 2
    return Link(link.alpha * longer, link.beta / longer)


def _worst(links: Sequence[Link]) -> Link:
    return Link(max(link.alpha for link in links), min(link.beta for link in links))


def _slower(fit: Fit, plain: Link, worst: Link) -> Fit:
    start = worst.alpha / plain.alpha if plain.alpha else 1.0
    return replace(fit, alpha=fit.alpha * start, beta=tuple(rate * worst.beta / plain.beta for rate in fit.beta))


def slowed(machine: Machine, factors: Mapping[int, float], size: int) -> Machine:
    """The machine where ranks, of so many, compute so many times as long as it says."""
    kinds: dict[RankClass, list[int]] = {}
    for rank in range(size):
        one = machine.class_of(rank)
        kinds.setdefault(replace(one, ranks="", nodes="", speed=one.speed / factors.get(rank, 1.0)), []).append(rank)
    classes = [
        replace(one, ranks=machine_schema.interval_text(ranks)) for one, ranks in kinds.items() if one != RankClass()
    ]
    return replace(machine, ranks=tuple(classes))


def crowding(machine: Machine, grid: GridShape) -> float:
    """How many times longer a rank computes and copies because ranks of its node share cores; 1 where cores suffice."""
    if machine.cores_per_node is None:
        return 1.0
    return max(1.0, min(grid.size, machine.ranks_per_node) / machine.cores_per_node)


def check_ranks(machine: Machine, grid: GridShape) -> None:
    """Raise ConfigError for a grid of more ranks than the machine's nodes hold."""
    if machine.nodes is not None and grid.size > machine.nodes * machine.ranks_per_node:
        room = f"{machine.nodes} nodes of {machine.ranks_per_node} ranks"
        rule = f"the machine {machine.name!r} has {room}, {machine.nodes * machine.ranks_per_node} in all"
        fix = "take a smaller grid, or set nodes and ranks_per_node of the profile to what there is"
        raise ConfigError(refusal(f"grid {grid}", f"{grid.size} ranks do not fit", rule, fix=fix))
