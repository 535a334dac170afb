"""What is tried of a call: choices of one axis, pairs of choices on two, each under several cuts.

A rank without rows of a letter that the rule says must be filled is left out, as the planner leaves it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from autopar.ops.record.rule import Choice, Rule

Cuts = tuple[float, ...] | None

CUTS: dict[int, tuple[Cuts, ...]] = {
    2: (None, (0.0, 0.3, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
    3: (None, (0.0, 0.5, 0.5, 1.0)),
}
FEW_CUTS: dict[int, tuple[Cuts, ...]] = {2: ((0.0, 0.3, 1.0), (0.0, 0.0, 1.0)), 3: (None,)}
PAIRED: tuple[tuple[Cuts, Cuts], ...] = ((None, None), ((0.0, 0.3, 1.0), (0.0, 0.7, 1.0)), ((0.0, 0.0, 1.0), None))
MOST_PAIRS, FEW_PAIRS = 24, 6


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing to try: a choice per axis and the cuts of every axis."""

    strategy: tuple[Choice, ...]
    cuts: tuple[Cuts, ...]


def readings(rule: Rule) -> dict[str, list[tuple[int, int]]]:
    """For every letter the plain reading, and one with blocks or units where the extent allows one."""
    pairs: dict[str, list[tuple[int, int]]] = {}
    for letter in rule.letters:
        n = rule.extents[letter]
        pairs[letter] = [(1, 1)]
        if n % 8 == 0:
            pairs[letter].append((2, 2))
        elif n % 4 == 0:
            pairs[letter].append((2, 1))
        elif n % 6 == 0:
            pairs[letter].append((1, 2))
    return pairs


def jobs(rule: Rule, every: tuple[Choice, ...], sizes: tuple[int, ...], few: bool = False) -> Iterator[Trial]:
    """Everything to try on a grid of these sizes; with `few` not under all cuts, and fewer pairs, others for other extents."""
    if len(sizes) == 1:
        for choice in every:
            cuts = (FEW_CUTS if few else CUTS)[sizes[0]] if choice.mode == "split" else (None,)
            yield from (Trial((choice,), (cut,)) for cut in cuts if _nonempty(rule, (choice,), (cut,), sizes))
        return
    pairs = [pair for pair in itertools.product(every, repeat=2) if "split" in (pair[0].mode, pair[1].mode)]
    pairs = [pair for pair in pairs if _compatible(rule, pair) and _nonempty(rule, pair, PAIRED[0], sizes)]
    step = max(1, -(-len(pairs) // (FEW_PAIRS if few else MOST_PAIRS)))
    first = sum(rule.extents.values()) % step if few else 0
    for i, pair in enumerate(pairs[first::step]):
        cuts = PAIRED[i % len(PAIRED)]
        yield Trial(pair, cuts if _nonempty(rule, pair, cuts, sizes) else PAIRED[0])


def _nonempty(rule: Rule, strategy: tuple[Choice, ...], cuts: tuple[Cuts, ...], sizes: tuple[int, ...]) -> bool:
    """Whether no rank is left without rows of a letter that must be filled."""
    left: dict[str, int] = {}
    for choice, cut, size in zip(strategy, cuts, sizes, strict=True):
        if choice.mode == "split" and choice.letter in rule.filled:
            m = left.get(choice.letter, rule.extents[choice.letter] // (choice.blocks * choice.unit))
            bounds = [int(c * m + 0.5) for c in cut] if cut else [m * i // size for i in range(size + 1)]
            left[choice.letter] = min(b - a for a, b in itertools.pairwise(bounds))
    return all(n > 0 for n in left.values())


def _compatible(rule: Rule, pair: tuple[Choice, ...]) -> bool:
    """Whether two choices may be taken together: one axis per windowed letter, and cuts that do not cross."""
    first, second = pair
    if first.mode == second.mode == "split" and first.letter == second.letter:
        if first.letter in rule.windows:
            return False
        n = rule.extents[first.letter]
        same = (first.blocks, first.unit) == (second.blocks, second.unit)
        apart = first.unit % max(1, n // second.blocks) == 0 or second.unit % max(1, n // first.blocks) == 0
        return same or apart
    return True
