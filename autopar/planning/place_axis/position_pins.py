"""Pins and bans of positions, ``PATTERN: AXIS=POSITION``, as in ``h.0.*: pipe=0``: where calls must, or must not, stand.

The pattern is over module paths and calls, as in `autopar.planning.pins`; the axis is the place axis. A call that several pins
match stands where all of them allow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.graph import Graph, Node
from autopar.ir.grid import GridShape, PlaceAxis
from autopar.ir.plan import Options

Pairs = tuple[tuple[int, int], ...]
"""Calls, by their places in the graph, and positions."""
_MOST = 12


@dataclass(frozen=True, slots=True)
class PositionPin:
    """Calls that match `pattern` stand, or do not stand, on `position` of the axis."""

    pattern: str
    axis: str
    position: str
    ban: bool

    def __str__(self) -> str:
        return f"{'ban' if self.ban else 'pin'} {f'{self.pattern}: {self.axis}={self.position}'!r}"

    def matches(self, node: Node) -> bool:
        """Whether it is about a call."""
        return fnmatchcase(node.module, self.pattern) or fnmatchcase(node.name, self.pattern)


def is_position(text: str) -> bool:
    """Whether a pin or ban is one of positions, by its form: an = and no @ behind the pattern."""
    word = text.rpartition(":")[2]
    return "=" in word and "@" not in word


def position_pins(options: Options) -> tuple[PositionPin, ...]:
    """The pins and bans of positions."""
    found = []
    for ban, texts in ((False, options.pins), (True, options.bans)):
        for text in filter(is_position, texts):
            pattern, _, rest = text.rpartition(":")
            axis, _, position = rest.partition("=")
            found.append(PositionPin(pattern.strip(), axis.strip(), position.strip(), ban))
    return tuple(found)


def letter_pins(texts: Iterable[str]) -> tuple[str, ...]:
    """The pins or bans that are not of positions."""
    return tuple(text for text in texts if not is_position(text))


def check(options: Options, grid: GridShape) -> None:
    """Raise ConfigError, with all of them, for pins and bans that name no position of the grid."""
    faults = {str(pin): fault for pin in position_pins(options) if (fault := _fault(pin, grid))}
    if faults:
        rule = "PATTERN: AXIS=POSITION says on which position of the place axis calls stand"
        fix = (
            f"write e.g. 'h.0.*: {grid.place.name}=0'"
            if grid.place
            else "compile for --grid stage:2, say, or take it away"
        )
        raise ConfigError(_refused(faults, rule, fix))


def _fault(pin: PositionPin, grid: GridShape) -> str:
    """What is wrong with a pin, empty where nothing is."""
    place = grid.place
    if not pin.pattern:
        return "it has no pattern"
    if place is None:
        return f"grid {grid} has no place axis, over whose positions calls could stand"
    if pin.axis in grid.names:
        return f"{pin.axis} is no place axis: tensors are split over it, as in 'PATTERN: LETTER@{pin.axis}'"
    if pin.axis != place.name:
        return f"unknown axis {pin.axis!r}; the place axis is {place.name}"
    if not (pin.position.isdecimal() and int(pin.position) < place.size):
        return f"no position {pin.position!r}; {_names(place)}"
    return ""


def _names(place: PlaceAxis) -> str:
    return (
        f"{place.name} has the positions 0 to {place.size - 1}"
        if place.size > 1
        else f"{place.name} has position 0 alone"
    )


def _refused(faults: dict[str, str], rule: str, fix: str) -> str:
    """The message: one fault by itself, several as a list."""
    if len(faults) == 1:
        [(where, fault)] = faults.items()
        return refusal(where, fault, rule, fix=fix)
    lines = [f"{where}: {fault}" for where, fault in faults.items()]
    return refusal("pins and bans", f"{len(faults)} cannot be followed", rule, lines, fix)


def placed_by_hand(options: Options, grid: GridShape, graph: Graph) -> tuple[Pairs, Pairs]:
    """The calls that are pinned to positions, and those that are banned from some.

    Raises ConfigError, with all of them, for pins and bans that match nothing, and for those that leave a call no position.
    """
    given = position_pins(options)
    matched = {pin: [i for i, node in enumerate(graph.nodes) if pin.matches(node)] for pin in given}
    names = [name for node in graph.nodes for name in (node.module, node.name) if name]
    nothing = {str(pin): f"matches no module or call{nearest(pin.pattern, names)}" for pin in given if not matched[pin]}
    if nothing:
        fix = "take a module or call out of `autopar inspect FOLDER --view module` of a plan without it"
        raise ConfigError(_refused(nothing, "a pattern is over module paths and calls", fix))
    _check_some_left(matched, grid, graph)
    pins, bans = (
        tuple((call, int(pin.position)) for pin in given if pin.ban == ban for call in matched[pin])
        for ban in (False, True)
    )
    return pins, bans


def _check_some_left(matched: dict[PositionPin, list[int]], grid: GridShape, graph: Graph) -> None:
    """Raise ConfigError where pins and bans together leave a call no position."""
    about: dict[int, list[PositionPin]] = {}
    for pin, calls in matched.items():
        for call in calls:
            about.setdefault(call, []).append(pin)
    clashes: dict[str, list[str]] = {}
    for call, pins in sorted(about.items()):
        if not _left(pins, grid.positions):
            clashes.setdefault(", ".join(dict.fromkeys(map(str, pins))), []).append(graph.nodes[call].name)
    if clashes:
        lines = [f"{pins}: none left for {_some(calls)}" for pins, calls in clashes.items()]
        rule = "a call stands on one position, which all its pins name and none of its bans"
        fix = "take one of them away"
        raise ConfigError(refusal("pins and bans", "contradict each other", rule, lines[:_MOST], fix))


def _left(pins: Sequence[PositionPin], positions: int) -> set[int]:
    """The positions that pins and bans of one call leave it."""
    left = set(range(positions))
    for pin in pins:
        left = left - {int(pin.position)} if pin.ban else left & {int(pin.position)}
    return left


def _some(calls: Sequence[str]) -> str:
    return ", ".join(calls[:3]) + (f" and {len(calls) - 3} more" if len(calls) > 3 else "")
