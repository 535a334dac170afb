"""Which readings of a dim as `blocks x m x unit` are worth considering when a letter is split.

A view of 2304 features as 3 x 12 x 64 makes the reading (3, 64) of that dim interesting: only under it can the split of the 12
heads pass through the view without communication. Readings are passed through every operator, forwards and backwards, until
nothing changes; a dim of a tensor then knows every reading that some operator near or far could use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autopar.ops.annotated import AnnotatedCall, AnnotatedGraph
from autopar.ops.record.rule import Dims

DimFactor = tuple[int, int]  # (blocks, unit)
DimFactors = dict[tuple[str, int], set[DimFactor]]  # by (value name, dim)

_MOST = 6  # readings kept per dim: the coarsest ones beyond it are dropped


def propagate(annotated: AnnotatedGraph) -> DimFactors:
    """The readings of every dim of every value of the graph, (1, 1) always among them."""
    graph = annotated.graph
    readings: DimFactors = {
        (value.name, dim): {(1, 1)} for value in graph.values.values() for dim in range(len(value.shape))
    }
    pending = dict.fromkeys(node.name for node in graph.nodes)
    readers = graph.consumers()
    writers = graph.producers()
    while pending:
        node = next(iter(pending))
        del pending[node]
        for name in _pass_through(readings, annotated.calls[node]):
            pending.update(dict.fromkeys(other.name for other in readers[name] if other.name != node))
            if name in writers and writers[name].name != node:
                pending[writers[name].name] = None
    return readings


def of_letters(readings: DimFactors, item: AnnotatedCall) -> dict[str, tuple[DimFactor, ...]]:
    """Per splittable letter of a call, the readings that any of its tensors suggests."""
    return {letter: tuple(sorted(_letter_factors(readings, item, letter))) for letter in item.rule.letters}


def _tensors(item: AnnotatedCall) -> Iterable[tuple[str, Dims]]:
    call, rule = item.call, item.rule
    for value, dims in zip((*call.operands, *call.results), (*rule.operands, *rule.results), strict=True):
        if value.name:
            yield value.name, dims


def _around(names: tuple[str, ...], letter: str, extents: Mapping[str, int]) -> tuple[int, int]:
    at = names.index(letter)
    before = math.prod(extents[name] for name in names[:at])
    return before, math.prod(extents[name] for name in names[at + 1 :])


def _letter_factors(readings: DimFactors, item: AnnotatedCall, letter: str) -> set[DimFactor]:
    rule = item.rule
    if letter in rule.windows:
        return {(1, 1)}
    factors: set[DimFactor] = {(1, 1)}
    extent = rule.extents[letter]
    for value, dims in _tensors(item):
        for dim, names in enumerate(dims):
            if letter not in names:
                continue
            before, after = _around(names, letter, rule.extents)
            for blocks, unit in readings[value, dim]:
                inner = (blocks // before, unit // after)
                fits = blocks % before == 0 and unit % after == 0 and extent % (inner[0] * inner[1]) == 0
                if fits and extent // (inner[0] * inner[1]) > 1:
                    factors.add(inner)
    return factors


def _pass_through(readings: DimFactors, item: AnnotatedCall) -> list[str]:
    """Give every dim of the call the readings of its letters; the names of the values that learned something."""
    changed: dict[str, None] = {}
    rule = item.rule
    for letter in rule.letters:
        factors = _letter_factors(readings, item, letter)
        for value, dims in _tensors(item):
            for dim, names in enumerate(dims):
                if letter not in names:
                    continue
                before, after = _around(names, letter, rule.extents)
                known = readings[value, dim]
                merged = known | {(before * blocks, unit * after) for blocks, unit in factors}
                kept = set(sorted(merged, key=lambda reading: (reading[0] * reading[1], reading))[:_MOST])
                if kept - known:
                    readings[value, dim] = kept
                    changed[value] = None
    return list(changed)
