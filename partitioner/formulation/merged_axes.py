"""Grids of many axes: a call may do something else on each, and the combinations of four or five axes are too many to price.

Axes that lie beside each other are merged, 2x2x2x2 to 4x4, 8x2, 4x2x2 and so on, and the model is planned on these smaller grids,
without a memory limit and, where that is missed, with it. What a call does in one of these plans, and every mixture of it, axis by
axis, is what it may do on the whole grid. Everything else is left out, so that no bound holds and the report says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from autopar.errors import ConfigError
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ops.record.rule import Call, whole_choice
from autopar.partitioner.formulation.constraints import Constraints, Words
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy, legal

AXES = 3
"""Grids of more axes, of two ranks or more each, are planned by way of merged ones."""
ENTRIES = 3e8
"""The same where the conversions have more prices than that: they would take 2.4 GB."""
Plan = Mapping[str, Strategy]
"""What every call does."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A grid of fewer axes, and the axes of the whole grid that each of them stands for."""

    grid: GridShape
    groups: tuple[tuple[int, ...], ...]

    def spread(self, strategy: Strategy, call: Call, axes: int) -> Strategy:
        """The strategy on the whole grid; on axes of one rank nothing is split."""
        choices = [whole_choice(call, "replicate")] * axes
        for choice, group in zip(strategy, self.groups, strict=True):
            for axis in group:
                choices[axis] = choice
        return tuple(choices)

    def _words(self, table: Mapping[str, Words]) -> dict[str, Words]:
        return {
            name: {i: {word for axis in group for word in words.get(axis, ())} for i, group in enumerate(self.groups)}
            for name, words in table.items()
        }

    def constraints(self, whole: Constraints) -> Constraints:
        """The constraints on this grid. Raises ConfigError where pins on axes that are merged are not the same."""
        return Constraints(
            pins=self._pins(whole.pins),
            bans=self._words(whole.bans),
            storage=self._words(whole.storage),
            banned_storage=self._words(whole.banned_storage),
            stored=whole.stored,
        )

    def _pins(self, pins: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, str]]:
        merged: dict[str, dict[int, str]] = {}
        for name, on in pins.items():
            for i, group in enumerate(self.groups):
                letters = {on[axis] for axis in group if axis in on}
                if len(letters) > 1:
                    raise ConfigError("merged axes are pinned differently")
                if letters:
                    merged.setdefault(name, {})[i] = letters.pop()
        return merged


def many(grid: GridShape) -> bool:
    """Whether a grid has too many axes to price every combination."""
    return sum(size > 1 for size in grid.sizes) > AXES


def entries(graph: Graph, calls: Mapping[str, CallStrategies]) -> int:
    """How many prices the conversions between makers and readers take."""
    makers = graph.producers()
    total = 0
    for node in graph.nodes:
        own = len(calls[node.name].strategies)
        total += sum(own * len(calls[makers[name].name].strategies) for name in node.inputs if name in makers)
    return total


def merges(grid: GridShape) -> Iterator[Merged]:
    """The merged grids, those of fewer axes first."""
    axes = [axis for axis, size in enumerate(grid.sizes) if size > 1]
    for count in range(2, min(AXES, len(axes) - 1) + 1):
        for cuts in itertools.combinations(range(1, len(axes)), count - 1):
            ends = (0, *cuts, len(axes))
            groups = tuple(tuple(axes[a:b]) for a, b in itertools.pairwise(ends))
            sizes = tuple(math.prod(grid.sizes[axis] for axis in group) for group in groups)
            yield Merged(GridShape(tuple(f"axis{i}" for i in range(count)), sizes), groups)


def spreadable(merged: Merged, calls: Mapping[str, CallStrategies], grid: GridShape) -> dict[str, CallStrategies]:
    """The calls on a merged grid with the strategies that are legal on the whole one."""
    known: dict[tuple[int, int], tuple[Strategy, ...]] = {}
    legal_calls = {}
    for name, item in calls.items():
        key = (id(item.strategies), id(item.rule))
        if key not in known:
            known[key] = tuple(
                strategy
                for strategy in item.strategies
                if legal(merged.spread(strategy, item.call, len(grid.sizes)), item.call, item.rule, grid)
            )
        legal_calls[name] = replace(item, strategies=known[key] or item.strategies)
    return legal_calls
