"""Fewer things to place: calls merged into blocks that can run as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.problem import (
    CallWork,
    ParameterUse,
    PlacementProblem,
    TensorUse,
    neighbours,
)


def merged(problem: PlacementProblem, blocks: Sequence[Sequence[int]]) -> PlacementProblem:
    """The problem in which each block of calls is one call; blocks stand in a topological order."""
    block_of = {call: number for number, block in enumerate(blocks) for call in block}
    calls = []
    for block in blocks:
        own = [problem.calls[call] for call in block]
        sums = [
            sum(row) for row in zip(*((c.forward, c.backward, c.weight, c.saved, c.held) for c in own), strict=True)
        ]
        calls.append(CallWork(own[0].name, *sums))
    tensors = []
    for tensor in problem.tensors:
        source = block_of[tensor.source]
        readers = tuple(sorted({block_of[reader] for reader in tensor.readers} - {source}))
        if readers:
            tensors.append(TensorUse(tensor.name, source, readers, tensor.size, tensor.gradient))
    parameters = tuple(
        ParameterUse(p.name, p.size, tuple(sorted({block_of[r] for r in p.readers})), p.gradient, p.update)
        for p in problem.parameters
    )
    everywhere = frozenset(range(len(problem.positions)))
    bans = tuple(
        (number, position)
        for number, block in enumerate(blocks)
        for position in sorted(everywhere - frozenset.intersection(*(problem.allowed[call] for call in block)))
    )
    return PlacementProblem(
        tuple(calls),
        tuple(tensors),
        parameters,
        problem.positions,
        problem.links,
        problem.microbatches,
        bans=bans,
        idle=problem.idle,
    )


def expanded(problem: PlacementProblem, blocks: list[list[int]], assignment: Assignment) -> Assignment:
    """An assignment of blocks as one of calls."""
    labels = [0] * len(problem.calls)
    for block, segment in zip(blocks, assignment.segment, strict=True):
        for call in block:
            labels[call] = segment
    found = assign(problem, labels, assignment.position)
    assert found is not None
    return found


def blocks_of(problem: PlacementProblem, most: int) -> list[list[int]]:
    """Calls merged into blocks, about `most` of them or fewer, each a block that can run as a whole.

    A call joins the only one that it reads from, or that reads from it: then no way leads out of the block and back. The
    largest tensors go first; no block grows beyond a share of the whole work, none joins calls that share no position.
    """
    count = len(problem.calls)
    work = [call.forward + call.backward for call in problem.calls]
    allowed = list(problem.allowed)
    before, after = neighbours(problem)
    size = [0.0] * count
    for tensor in problem.tensors:
        size[tensor.source] = max(size[tensor.source], tensor.size + tensor.gradient)
    parent = list(range(count))
    left, cap = count, sum(work) / max(most, 1)
    for _ in range(8):
        for call in sorted(range(count), key=lambda call: (-size[call], call)):
            a = _root(parent, call)
            for b in sorted({_root(parent, reader) for reader in after[a]}):
                if left <= most:
                    break
                alone = len(after[a]) == 1 or len(before[b]) == 1
                if b != a and alone and work[a] + work[b] <= cap and allowed[a] & allowed[b]:
                    _join(a, b, parent, before, after)
                    work[a] += work[b]
                    allowed[a] &= allowed[b]
                    left -= 1
        if left <= most:
            break
        cap *= 1.5
    return _in_order(problem, [_root(parent, call) for call in range(count)])


def _root(parent: list[int], call: int) -> int:
    while parent[call] != call:
        parent[call] = parent[parent[call]]
        call = parent[call]
    return call


def _join(a: int, b: int, parent: list[int], before: list[set[int]], after: list[set[int]]) -> None:
    """Block b into block a, which it follows; the neighbours are kept as roots."""
    parent[b] = a
    after[a].discard(b)
    before[b].discard(a)
    for other in after[b]:
        before[other].discard(b)
        before[other].add(a)
        after[a].add(other)
    for other in before[b]:
        after[other].discard(b)
        after[other].add(a)
        before[a].add(other)


def _in_order(problem: PlacementProblem, root: list[int]) -> list[list[int]]:
    """The blocks in a topological order."""
    assignment = assign(problem, root, range(len(root)))
    assert assignment is not None, "blocks that wait for each other"
    blocks: list[list[int]] = [[] for _ in assignment.position]
    for call, number in enumerate(assignment.segment):
        blocks[number].append(call)
    return blocks
