"""What the user asks for: pins and bans, ``PATTERN: WORD@AXIS``, as in ``*.mlp.c_fc: n@model`` or ``wte.weight: shard 0@axis0``.

The pattern is over module paths and calls where the word is a letter or a mode, and over parameters and inputs where it is a
layout (`autopar.partitioner.formulation.choice_patterns`); ``replicate``, ``copied`` and ``whole`` speak of calls where the
pattern matches any. An axis ``*`` stands for every axis. Those of positions, ``PATTERN: AXIS=POSITION``, are read in
`autopar.planning.place_axis.position_pins`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.plan import Options
from autopar.ops.annotated import AnnotatedCall, AnnotatedGraph
from autopar.partitioner.formulation.choice_patterns import MODES, within
from autopar.partitioner.formulation.constraints import Constraints
from autopar.planning.place_axis import position_pins

_EXAMPLE = "write e.g. '*.c_fc: n@axis0'"
_SHARDS = "shard"


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin or ban: calls, or tensors, that match `pattern` do, or do not, what `word` says on `axes`."""

    pattern: str
    word: str
    axes: tuple[int, ...]
    ban: bool = False

    @property
    def kind(self) -> str:
        """What it is called."""
        return "ban" if self.ban else "pin"

    def __str__(self) -> str:
        return f"{self.kind} {self.pattern!r}"


@dataclass(frozen=True, slots=True)
class _Match:
    """One call or tensor that a pin or ban is about, on one axis."""

    kind: str  # "node" or "storage"
    name: str
    axis: int
    pin: Pin


def of(options: Options, grid: GridShape) -> tuple[Pin, ...]:
    """The pins and bans of letters and layouts. Raises ConfigError for bad syntax, an unknown axis or position."""
    position_pins.check(options, grid)
    pins, bans = position_pins.letter_pins(options.pins), position_pins.letter_pins(options.bans)
    return (*parse(pins, grid), *parse(bans, grid, ban=True))


def parse(texts: Sequence[str], grid: GridShape, *, ban: bool = False) -> tuple[Pin, ...]:
    """Read pins, or bans. Raises ConfigError for bad syntax or an unknown axis."""
    return tuple(_parse(text, grid, ban=ban) for text in texts)


def _parse(text: str, grid: GridShape, *, ban: bool) -> Pin:
    kind = "ban" if ban else "pin"
    where = f"{kind} {text!r}"
    pattern, colon, rest = text.rpartition(":")
    word, at, axis = (part.strip() for part in rest.rpartition("@"))
    if not (colon and at and pattern.strip() and word):
        rule = f"a {kind} is PATTERN: LETTER@AXIS, or PATTERN: AXIS=POSITION of a place axis"
        raise ConfigError(refusal(where, f"not a {kind}", rule, fix=_EXAMPLE))
    if grid.place and axis == grid.place.name:
        fault, rule = (
            f"{axis} is a place axis",
            "tensors are split over the other axes; calls stand on positions of this one",
        )
        raise ConfigError(refusal(where, fault, rule, fix=f"write e.g. '{pattern.strip()}: {axis}=0'"))
    if grid.queue and axis == grid.queue.name:
        fault, rule = (
            f"{axis} is a queue",
            "its replicas hold the same and compute whole micro-batches; nothing is split over it",
        )
        raise ConfigError(refusal(where, fault, rule, grid.names, "name another axis, or leave it out"))
    if axis != "*" and axis not in grid.names:
        fault = f"unknown axis {axis!r}{nearest(axis, grid.names)}"
        raise ConfigError(refusal(where, fault, "an axis is the grid's, or * for all", grid.names, _EXAMPLE))
    axes = tuple(range(len(grid.names))) if axis == "*" else (grid.names.index(axis),)
    return Pin(pattern.strip(), " ".join(word.split()), axes, ban)


def apply(pins: Sequence[Pin], annotated: AnnotatedGraph, grid: GridShape) -> Constraints:
    """What calls and tensors must and must not do. Raises ConfigError where a pin matches nothing, or contradicts another."""
    matches = [
        _Match(kind, name, axis, pin) for pin in pins for kind, name in _targets(pin, annotated) for axis in pin.axes
    ]
    _check(matches, grid)
    calls: dict[str, dict[int, str]] = {}
    for match in matches:
        if match.kind == "node" and not match.pin.ban:
            pinned = calls.setdefault(match.name, {})
            pinned[match.axis] = _narrower(match.pin.word, pinned.get(match.axis, match.pin.word))
    bans, storage, banned_storage = (
        _table(matches, kind, ban=ban) for kind, ban in (("node", True), ("storage", False), ("storage", True))
    )
    return Constraints(pins=calls, bans=bans, storage=storage, banned_storage=banned_storage)


def stored(constraints: Constraints, graph: Graph, layouts: Mapping[str, Sequence[str]]) -> Constraints:
    """With these parameters lying so, whatever else was asked for them."""
    storage = {
        item.value: {axis: (word,) for axis, word in enumerate(layouts[item.name])}
        for item in graph.parameters
        if item.name in layouts
    }
    return replace(constraints, storage={**constraints.storage, **storage})


def _narrower(word: str, other: str) -> str:
    return word if within(word, other) else other


def _table(matches: Sequence[_Match], kind: str, *, ban: bool) -> dict[str, dict[int, tuple[str, ...]]]:
    table: dict[str, dict[int, tuple[str, ...]]] = {}
    for match in matches:
        if (match.kind, match.pin.ban) == (kind, ban):
            words = table.setdefault(match.name, {})
            words[match.axis] = tuple(dict.fromkeys((*words.get(match.axis, ()), match.pin.word)))
    return table


def _targets(pin: Pin, annotated: AnnotatedGraph) -> list[tuple[str, str]]:
    """The calls or tensors that a pin is about. Raises ConfigError for none."""
    graph = annotated.graph
    matched = [node for node in graph.nodes if _fits(pin, node.module, node.name)]
    tensors = [value for names, value in _tensors(graph) if _fits(pin, *names)]
    if within(pin.word, _SHARDS) or (tensors and not matched and pin.word in MODES):
        if tensors and pin.word != "linear":
            return [("storage", value) for value in tensors]
        raise _unmatched(pin, [name for names, _ in _tensors(graph) for name in names], "parameter or input")
    if not matched:
        names = [name for node in graph.nodes for name in (node.module, node.name) if name]
        raise _unmatched(pin, names, "module or call")
    able = [node.name for node in matched if pin.word in (*annotated.calls[node.name].rule.letters, *MODES)]
    if not able:
        raise _unable(pin, [annotated.calls[node.name] for node in matched])
    return [("node", name) for name in able]


def _tensors(graph: Graph) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every parameter, buffer and input: its names, and its value in the graph."""
    yield from (((item.name, *item.aliases), item.value) for item in graph.parameters)
    yield from (((item.name,), item.value) for item in graph.inputs)


def _fits(pin: Pin, *names: str) -> bool:
    return any(fnmatchcase(name, pin.pattern) for name in names)


def _check(matches: Sequence[_Match], grid: GridShape) -> None:
    """Raise ConfigError, with all of them, where pins and bans for one call or tensor on one axis exclude each other."""
    places: dict[tuple[str, str, int], dict[Pin, None]] = {}
    for match in matches:
        places.setdefault((match.kind, match.name, match.axis), {})[match.pin] = None
    offenders: dict[str, str] = {}
    for (_, name, axis), pins in places.items():
        clash = _clash(list(pins))
        if clash:
            words = " against ".join(f"{pin}: {pin.word}@{grid.names[axis]}" for pin in clash)
            offenders.setdefault(words, name)
    if offenders:
        lines = [f"{words}, as for {name}" for words, name in offenders.items()]
        rule = "one choice per call, or layout per tensor, and axis; none that is pinned is banned"
        where = f"pins on {next(iter(offenders.values()))}" if len(offenders) == 1 else "pins"
        raise ConfigError(refusal(where, "contradict each other", rule, lines, "take one of them away"))


def _clash(pins: Sequence[Pin]) -> tuple[Pin, Pin] | None:
    """Two that exclude each other."""
    for i, pin in enumerate(pins):
        for other in pins[i + 1 :]:
            if pin.ban and other.ban:
                continue
            if pin.ban != other.ban:
                pinned, banned = (other, pin) if pin.ban else (pin, other)
                if within(pinned.word, banned.word):
                    return pinned, banned
            elif not (within(pin.word, other.word) or within(other.word, pin.word)):
                return pin, other
    return None


def _unmatched(pin: Pin, names: Sequence[str], what: str) -> ConfigError:
    near = nearest(pin.pattern, names)
    view = "parameters" if "input" in what else "module"
    fix = f"take a {what} out of `autopar inspect FOLDER --view {view}` of a plan without the {pin.kind}"
    rule = f"the pattern of {pin.word!r} matches {what.replace(' or', 's or')}s"
    return ConfigError(refusal(str(pin), f"matches no {what}{near}", rule, fix=fix))


def _unable(pin: Pin, matched: Sequence[AnnotatedCall]) -> ConfigError:
    """The refusal of a letter that no call there has, or that none may split."""
    first = matched[0].node
    where = str(pin) + (f" on {first.source}: `{first.code}`" if first.source else "")
    every = list(dict.fromkeys(letter for call in matched for letter in call.rule.letters))
    reasons = dict.fromkeys(filter(None, (_reason(pin.word, call) for call in matched)))
    fault = next(iter(reasons), f"no call there has the letter {pin.word!r}{nearest(pin.word, [*every, *MODES])}")
    rule = f"a {pin.kind} names a letter of the operator that may be split, or {', '.join(MODES)}"
    lines = list(map(_letters, matched[:10]))
    lines += [f"and {len(matched) - 10} more"] if len(matched) > 10 else []
    fix = f"{pin.kind} one of the letters above" if every else f"{pin.kind} {' or '.join(MODES[:2])}, or another call"
    return ConfigError(refusal(where, fault, rule, lines, fix))


def _letters(call: AnnotatedCall) -> str:
    """A call's letters with their extents, and its notation."""
    extents = ", ".join(f"{letter} ({call.rule.extents[letter]})" for letter in call.rule.letters)
    return f"{call.node.name}: {extents or 'no letter'}; {call.op.note}"


def _reason(letter: str, call: AnnotatedCall) -> str:
    """Why a letter that a call has is not split, or nothing where it has none of that name."""
    op, rule = call.op, call.rule
    if rule.refused or letter not in rule.extents:
        return ""
    if letter in rule.frozen:
        return f"the letter {letter!r} of {op.name} is frozen: each result needs all of that dim, so it stays whole"
    return f"the letter {letter!r} of {op.name} has extent {rule.extents[letter]}, which cannot be split"
