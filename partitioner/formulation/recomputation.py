"""Repeated blocks whose forward is computed again in backward (activation checkpointing, T. Chen et al., arXiv 1604.06174).

Of such a block only what goes in is kept until backward, which then computes the block once more. With n blocks of forward time f,
each of which saves s bytes for backward and hands on e bytes,

    kept           n s                  computed again    n e + s
    seconds        -                                      n f more, with the block's own conversions

Blocks that change buffers (running statistics) are never computed again: they would change them twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autopar.costmodel import memory
from autopar.costmodel.local_shapes import local_bytes
from autopar.ir.graph import ITEMSIZE, Graph
from autopar.ir.grid import GridShape
from autopar.partitioner.formulation.repeated_blocks import Repeat
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy, result_layouts


@dataclass(frozen=True, slots=True)
class Recomputation:
    """What is computed again: `repeats` by `key_of`, and of them

    calls     every call
    later     the calls of all blocks but the first: what they save is held after the first block's is gone
    handed    the calls that make what a block hands on -> the positions of these results
    """

    repeats: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    later: frozenset[str] = frozenset()
    handed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


NO_RECOMPUTATION = Recomputation()


def key_of(repeat: Repeat) -> str:
    """What a repeat is known by: its first call."""
    return repeat.nodes[0][0].name


def offered(graph: Graph, repeats: Sequence[Repeat], fixed: Collection[str]) -> tuple[Repeat, ...]:
    """The repeats that may be computed again; `fixed` are the values that are changed in place."""
    changed = {value for _, value in graph.updates} | set(fixed)

    def pure(repeat: Repeat) -> bool:
        return not any(changed & {*node.inputs, *node.outputs} for nodes in repeat.nodes for node in nodes)

    return tuple(repeat for repeat in repeats if pure(repeat))


def recomputation_of(repeats: Sequence[Repeat], chosen: Collection[str]) -> Recomputation:
    """The record for the repeats of these names."""
    taken = [repeat for repeat in repeats if key_of(repeat) in chosen]
    handed: dict[str, tuple[int, ...]] = {}
    for repeat in taken:
        for nodes, values in zip(repeat.nodes, repeat.values, strict=True):
            leaving = {values[position] for position in repeat.outputs()}
            for node in nodes:
                places = tuple(i for i, output in enumerate(node.outputs) if output in leaving)
                handed |= {node.name: places} if places else {}
    return Recomputation(
        frozenset(map(key_of, taken)),
        frozenset(node.name for repeat in taken for nodes in repeat.nodes for node in nodes),
        frozenset(node.name for repeat in taken for nodes in repeat.nodes[1:] for node in nodes),
        handed,
    )


def kept_bytes(
    item: CallStrategies, strategy: Strategy, grid: GridShape, resident: frozenset[str], computed_again: Recomputation
) -> int:
    """What a call keeps until backward: all that it saves, or, computed again, only what its block hands on.

    What the first block saves counts: while backward is in a block, that much is held.
    """
    saved = memory.saved_bytes(item.call, item.rule, item.op, strategy, grid, resident)
    if item.node.name not in computed_again.calls:
        return saved
    results = [(item.call.results[i], i) for i in computed_again.handed.get(item.node.name, ())]
    left = sum(local_bytes(v.shape, ITEMSIZE[v.dtype], result_layouts(strategy, i), grid) for v, i in results)
    return left + (0 if item.node.name in computed_again.later else saved)
