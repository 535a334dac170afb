"""Calls in series and in parallel, and branches given to different positions.

A call that comes before or after every other one separates what is before it from what is behind. What lies between two such
calls falls into branches that have nothing to do with each other, and each of these is taken apart in the same way. What has no
such call and only one branch stays as it is, in the order of its calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autopar.partitioner.placement.problem import PlacementProblem, neighbours


@dataclass(frozen=True, slots=True)
class Series:
    """Parts of which each comes after the one before it."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Branches:
    """Parts between which there is no way."""

    parts: tuple[Tree, ...]


Tree = int | Series | Branches


def decompose(problem: PlacementProblem) -> Tree:
    """The calls of a problem in series and in parallel."""
    before, after = neighbours(problem)
    ways = [0] * len(problem.calls)  # the calls that a call comes before or after, as bits
    for call, sources in enumerate(before):
        for source in sources:
            ways[call] |= ways[source] | 1 << source
    ahead = [0] * len(problem.calls)
    for call in reversed(range(len(ahead))):
        for reader in after[call]:
            ahead[call] |= ahead[reader] | 1 << reader
    related = [one | other for one, other in zip(ways, ahead, strict=True)]
    return _series(list(range(len(ways))), related, after)


def _series(calls: list[int], related: Sequence[int], after: Sequence[set[int]]) -> Tree:
    """Calls that are connected, or all there are, taken apart."""
    inside = sum(1 << call for call in calls)
    parts: list[Tree] = []
    run: list[int] = []
    for call in calls:
        if (related[call] & inside).bit_count() == len(calls) - 1:
            parts += _run(run, len(calls), related, after)
            parts.append(call)
            run = []
        else:
            run.append(call)
    parts += _run(run, len(calls), related, after)
    return parts[0] if len(parts) == 1 else Series(tuple(parts))


def _run(run: list[int], whole: int, related: Sequence[int], after: Sequence[set[int]]) -> Iterator[Tree]:
    """What lies between two calls that separate: nothing, one thing, or branches."""
    components = _components(run, after)
    if len(components) > 1:
        yield Branches(tuple(_series(component, related, after) for component in components))
    elif len(run) == whole:
        yield from run
    elif run:
        yield _series(run, related, after)


def _components(calls: list[int], after: Sequence[set[int]]) -> list[list[int]]:
    """Calls between which there are arrows, whichever way these point."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(calls)
    inside = set(calls)
    graph.add_edges_from((call, reader) for call in calls for reader in after[call] & inside)
    return sorted(sorted(component) for component in nx.connected_components(graph))


def calls_of(tree: Tree) -> list[int]:
    """The calls of a tree, branch by branch: a topological order in which a branch is not interrupted."""
    return [tree] if isinstance(tree, int) else [call for part in tree.parts for call in calls_of(part)]


def spread(problem: PlacementProblem, tree: Tree) -> list[int]:
    """The position of each call: along a series one position after the other, branches side by side."""
    weight = [call.forward + call.backward for call in problem.calls]
    at = [0] * len(weight)
    _spread(tree, list(range(len(problem.positions))), problem.speeds, weight, at)
    return at


def _spread(tree: Tree, positions: list[int], speeds: list[float], weight: list[float], at: list[int]) -> None:
    if isinstance(tree, int) or len(positions) == 1:
        for call in calls_of(tree):
            at[call] = positions[0]
    elif isinstance(tree, Series):
        _along(tree, positions, speeds, weight, at)
    else:
        for part, own in _shares(tree, positions, speeds, weight):
            _spread(part, own, speeds, weight, at)


def _along(tree: Series, positions: list[int], speeds: list[float], weight: list[float], at: list[int]) -> None:
    """Each part on the positions whose shares of the work it falls into: whole ones, or the one where its middle lies."""
    ends, total = [0.0], sum(speeds[position] for position in positions)
    for position in positions:
        ends.append(ends[-1] + speeds[position] / total)
    whole, done = sum(weight[call] for call in calls_of(tree)) or 1.0, 0.0
    for part in tree.parts:
        share = sum(weight[call] for call in calls_of(part)) / whole
        first, last = (min(range(len(ends)), key=lambda k: abs(ends[k] - x)) for x in (done, done + share))
        if first == last:
            middle = sum(end <= done + share / 2 for end in ends[1:-1])
            first, last = middle, middle + 1
        _spread(part, positions[first:last], speeds, weight, at)
        done += share


def _shares(
    tree: Branches, positions: list[int], speeds: list[float], weight: list[float]
) -> list[tuple[Tree, list[int]]]:
    """The positions of each branch, the heaviest first: one with the least to do, or several where there are enough."""
    sizes = {k: sum(weight[call] for call in calls_of(part)) for k, part in enumerate(tree.parts)}
    heaviest = sorted(sizes, key=lambda k: (-sizes[k], k))
    own: dict[int, list[int]] = {}
    if len(heaviest) >= len(positions):
        load = dict.fromkeys(positions, 0.0)
        for k in heaviest:
            position = min(positions, key=lambda q: (load[q] + sizes[k]) / speeds[q])
            load[position] += sizes[k]
            own[k] = [position]
    else:
        counts = dict.fromkeys(heaviest, 1)
        for _ in range(len(positions) - len(heaviest)):
            counts[max(heaviest, key=lambda k: sizes[k] / counts[k])] += 1
        left = list(positions)
        for k in sorted(heaviest):
            own[k], left = left[: counts[k]], left[counts[k] :]
    return [(part, own[k]) for k, part in enumerate(tree.parts)]
