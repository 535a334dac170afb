"""What the user pins: ``PATTERN: LETTER@AXIS``, the pattern over module paths and call names, as in ``*.mlp.c_fc: n@model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autopar.errors import ConfigError, nearest, refusal
from autopar.graph import Graph, Node
from autopar.grid import GridShape
from autopar.ops.describe import call_of, record_of_call
from autopar.ops.op import Op
from autopar.ops.rule import Rule

_MODES = ("replicate", "copied", "linear")
_EXAMPLE = "write e.g. '*.c_fc: n@axis0'"


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin: calls whose module path or name matches `pattern` do `choice` (a letter or a mode) on `axis`."""

    pattern: str
    choice: str
    axis: int


def parse(texts: Sequence[str], grid: GridShape) -> tuple[Pin, ...]:
    """Read pins. Raises ConfigError for bad syntax or an unknown axis."""
    pins = []
    for text in texts:
        where = f"pin {text!r}"
        pattern, colon, rest = text.rpartition(":")
        choice, at, axis = (part.strip() for part in rest.partition("@"))
        if not (colon and at and pattern.strip() and choice):
            raise ConfigError(refusal(where, "not a pin", "a pin is PATTERN: LETTER@AXIS", fix=_EXAMPLE))
        if axis not in grid.names:
            raise ConfigError(
                refusal(
                    where,
                    f"unknown axis {axis!r}{nearest(axis, grid.names)}",
                    "an axis is the grid's",
                    grid.names,
                    _EXAMPLE,
                )
            )
        pins.append(Pin(pattern.strip(), choice, grid.names.index(axis)))
    return tuple(pins)


def apply(pins: Sequence[Pin], graph: Graph) -> dict[str, dict[int, str]]:
    """Per call what it must do on which axis. Raises ConfigError where a pin matches nothing, or contradicts another."""
    found: dict[str, dict[int, str]] = {}
    if not pins:
        return found
    known = {node.name: record_of_call(call_of(graph, node)) for node in graph.nodes}
    for pin in pins:
        matched = [
            node for node in graph.nodes if fnmatchcase(node.module, pin.pattern) or fnmatchcase(node.name, pin.pattern)
        ]
        if not matched:
            raise _unmatched(pin, graph)
        able = [node.name for node in matched if pin.choice in (*known[node.name][1].letters, *_MODES)]
        if not able:
            raise _unable(pin, matched, known)
        for name in able:
            if found.setdefault(name, {}).setdefault(pin.axis, pin.choice) != pin.choice:
                given = [found[name][pin.axis], pin.choice]
                fix = "take one of them away"
                raise ConfigError(
                    refusal(f"pins on {name}", "contradict each other", "one choice per axis", given, fix)
                )
    return found


def _unmatched(pin: Pin, graph: Graph) -> ConfigError:
    near = nearest(pin.pattern, [name for node in graph.nodes for name in (node.module, node.name) if name])
    fix = "take a module path or call out of `autopar inspect FOLDER --view module` of a plan without the pin"
    rule = "a pin's pattern matches module paths or calls"
    return ConfigError(refusal(f"pin {pin.pattern!r}", f"matches no module or call{near}", rule, fix=fix))


def _unable(pin: Pin, matched: Sequence[Node], known: Mapping[str, tuple[Op, Rule]]) -> ConfigError:
    """The refusal of a letter that no call there has, or that none may split."""
    where = f"pin {pin.pattern!r}" + (f" on {matched[0].source}: `{matched[0].code}`" if matched[0].source else "")
    every = list(dict.fromkeys(letter for node in matched for letter in known[node.name][1].letters))
    reasons = dict.fromkeys(filter(None, (_reason(pin.choice, *known[node.name]) for node in matched)))
    given = next(iter(reasons), f"no call there has the letter {pin.choice!r}{nearest(pin.choice, [*every, *_MODES])}")
    rule = f"a pin names a letter of the operator that may be split, or {', '.join(_MODES)}"
    lines = [_letters(node, *known[node.name]) for node in matched[:10]]
    lines += [f"and {len(matched) - 10} more"] if len(matched) > 10 else []
    fix = "pin one of the letters above" if every else f"pin {' or '.join(_MODES[:2])}, or another call"
    return ConfigError(refusal(where, given, rule, lines, fix))


def _letters(node: Node, op: Op, rule: Rule) -> str:
    """A call's letters with their extents, and its notation."""
    extents = ", ".join(f"{letter} ({rule.extents[letter]})" for letter in rule.letters)
    return f"{node.name}: {extents or 'no letter'}; {op.note}"


def _reason(letter: str, op: Op, rule: Rule) -> str:
    """Why a letter that a call has is not split, or nothing where it has none of that name."""
    if rule.refused or letter not in rule.extents:
        return ""
    if letter in rule.frozen:
        return f"the letter {letter!r} of {op.name} is frozen: each result needs all of that dim, so it stays whole"
    return f"the letter {letter!r} of {op.name} has extent {rule.extents[letter]}, which cannot be split"
