"""What the user pins: ``PATTERN: LETTER@AXIS``, the pattern over module paths and call names, as in ``*.mlp.c_fc: n@model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autopar.errors import ConfigError, nearest, refusal
from autopar.graph import Graph
from autopar.grid import GridShape
from autopar.ops.describe import rule_of
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
    rules = {node.name: rule_of(graph, node) for node in graph.nodes}
    paths = {node.name: node.module for node in graph.nodes}
    for pin in pins:
        matched = [
            name for name, path in paths.items() if fnmatchcase(path, pin.pattern) or fnmatchcase(name, pin.pattern)
        ]
        able = [name for name in matched if pin.choice in (*rules[name].letters, *_MODES)]
        if not able:
            raise _unmatched(pin, matched, rules, paths)
        for name in able:
            if found.setdefault(name, {}).setdefault(pin.axis, pin.choice) != pin.choice:
                given = [found[name][pin.axis], pin.choice]
                fix = "take one of them away"
                raise ConfigError(
                    refusal(f"pins on {name}", "contradict each other", "one choice per axis", given, fix)
                )
    return found


def _unmatched(pin: Pin, matched: Sequence[str], rules: Mapping[str, Rule], paths: Mapping[str, str]) -> ConfigError:
    if not matched:
        near = nearest(pin.pattern, [*paths.values(), *paths])
        fix = "take a module path or call out of `autopar inspect FOLDER --view module` of a plan without the pin"
        rule = "a pin's pattern matches module paths or calls"
        return ConfigError(refusal(f"pin {pin.pattern!r}", f"matches no module or call{near}", rule, fix=fix))
    letters = [f"{name}: {' '.join(rules[name].letters) or 'none'}" for name in matched[:10]]
    rule = f"a pin names a letter of the operator, or {', '.join(_MODES)}"
    given = f"no call there has the letter {pin.choice!r}"
    return ConfigError(refusal(f"pin {pin.pattern!r}", given, rule, letters, "pin one of the letters above"))
