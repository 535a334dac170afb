"""What is left open: words that narrow what a call may do on an axis, and where a parameter or input may lie.

Pins and bans of users are such words (`autopar.planning.pins`, `words`); a baseline (`autopar.planning.baselines`) names the
strategies themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autopar.errors import ConfigError, refusal
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, Shard
from autopar.ops.annotated import AnnotatedGraph
from autopar.partitioner.formulation.choice_patterns import choice_matches, layout_matches
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy, strategies_of

Words = Mapping[int, Collection[str]]  # per axis


@dataclass(frozen=True, slots=True)
class Constraints:
    """What limits the choice.

    pins            per call and axis what it must do
    bans            per call and axis what it must not do
    only            per call the strategies of which it takes one, as far as it has any of them
    storage         per parameter or input and axis the words of which its storage layout fits every one
    banned_storage  the same of what its storage layout must not be
    stored          parameters that lie in parts over as many axes as they can, and are gathered for use
    bases           per call the strategies of which mixtures are open (`strategies_of`); None where all are
    """

    pins: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    bans: Mapping[str, Words] = field(default_factory=dict)
    only: Mapping[str, Collection[Strategy]] = field(default_factory=dict)
    storage: Mapping[str, Words] = field(default_factory=dict)
    banned_storage: Mapping[str, Words] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    bases: Mapping[str, Sequence[Strategy]] | None = None

    def gathers(self, value: str) -> bool:
        """Whether a parameter may lie in parts where its users want it whole: it is asked for."""
        return value in self.stored or any(
            word.startswith("shard") for words in self.storage.get(value, {}).values() for word in words
        )

    def alike(self, value: str, other: str) -> bool:
        """Whether two tensors may lie in the same layouts, so that blocks may share the choice."""
        every = (self.storage, self.banned_storage)
        same = all(_plain(table.get(value, {})) == _plain(table.get(other, {})) for table in every)
        return same and (value in self.stored) == (other in self.stored)


NONE = Constraints()


def _plain(words: Words) -> dict[int, frozenset[str]]:
    return {axis: frozenset(axis_words) for axis, axis_words in words.items()}


def same_storage_layouts(repeat: Repeat, constraints: Constraints) -> bool:
    """Whether the parameters of all blocks may lie alike, so that they may share one choice."""
    return all(
        constraints.alike(name, first)
        for nodes in repeat.nodes[1:]
        for node, first_node in zip(nodes, repeat.nodes[0], strict=True)
        for name, first in zip(node.inputs, first_node.inputs, strict=True)
    )


def constrained(
    annotated: AnnotatedGraph, grid: GridShape, constraints: Constraints = NONE
) -> dict[str, CallStrategies]:
    """Every call with the strategies that are left to it. Raises ConfigError where a call has none left."""
    return narrowed(strategies_of(annotated, grid, constraints.pins, constraints.bases), constraints, grid)


def narrowed(
    calls: Mapping[str, CallStrategies], constraints: Constraints, grid: GridShape
) -> dict[str, CallStrategies]:
    """The calls with the strategies that are left. Raises ConfigError, with all bans on it, where a call has none left."""
    return {name: _narrowed(item, constraints, grid) for name, item in calls.items()}


def _narrowed(item: CallStrategies, constraints: Constraints, grid: GridShape) -> CallStrategies:
    name = item.node.name
    banned = constraints.bans.get(name, {})
    bans = _by_axis(banned, grid)
    kept = tuple(
        strategy for strategy in item.strategies if not any(choice_matches(strategy[axis], word) for axis, word in bans)
    )
    if not kept:
        raise _nothing_left(item, banned, grid)
    only = constraints.only.get(name)
    kept = tuple(strategy for strategy in kept if strategy in only) or kept if only is not None else kept
    return item if kept == item.strategies else replace(item, strategies=kept)


def _by_axis(words: Words, grid: GridShape) -> list[tuple[int, str]]:
    """Every word with its axis, of the axes of more than one rank."""
    return [(axis, word) for axis, axis_words in words.items() if grid.sizes[axis] > 1 for word in axis_words]


def _nothing_left(item: CallStrategies, banned: Words, grid: GridShape) -> ConfigError:
    node = item.node
    offenders = [f"ban of {word}@{grid.names[axis]}" for axis, words in sorted(banned.items()) for word in words]
    able = dict.fromkeys(", ".join(map(str, strategy)) for strategy in item.strategies)
    offenders += [f"without bans and with the pins it could do {'; '.join(list(able)[:8])}"]
    where = f"bans on {node.module or node.name} ({node.source})"
    fix = "take one of the bans away"
    return ConfigError(refusal(where, "the call has nothing left to do", "one choice is left", offenders, fix))


def allowed_storage_layouts(
    constraints: Constraints, value: str, options: Iterable[Layouts], grid: GridShape
) -> tuple[Layouts, ...]:
    """Those of the layouts in which a tensor may lie. Raises ConfigError where there is none."""
    every = tuple(options)
    pinned, banned = constraints.storage.get(value, {}), constraints.banned_storage.get(value, {})
    pins, bans = _by_axis(pinned, grid), _by_axis(banned, grid)
    kept = tuple(
        stored
        for stored in every
        if all(layout_matches(stored[axis], word) for axis, word in pins)
        and not any(layout_matches(stored[axis], word) for axis, word in bans)
    )
    if not kept:
        asked_for = [f"{word}@{grid.names[axis]}" for axis, words in pinned.items() for word in words]
        asked_for += [f"not {word}@{grid.names[axis]}" for axis, words in banned.items() for word in words]
        able = [f"it can lie as {', '.join(map(str, stored))}" for stored in every]
        rule = "a parameter lies as its users need it, or in parts along dim 0 of at least a row per rank"
        fix = "pin or ban another layout"
        fault = f"cannot lie so: {'; '.join(asked_for)}"
        raise ConfigError(refusal(f"storage layout of {value}", fault, rule, able[:12], fix))
    if value in constraints.stored:
        most = max(map(_parts, kept))
        kept = tuple(stored for stored in kept if _parts(stored) == most)
    return kept


def _parts(stored: Layouts) -> int:
    return sum(isinstance(layout, Shard) for layout in stored)
