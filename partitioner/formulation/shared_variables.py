"""Which variables of the abstract problem are one: those of later blocks and the first block's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopar.ir.graph import Graph
from autopar.partitioner.formulation import repeated_blocks
from autopar.partitioner.formulation.strategies import CallStrategies


def external_values(graph: Graph) -> list[str]:
    """The values that no call makes: parameters, then inputs."""
    return [item.value for item in graph.parameters] + [item.value for item in graph.inputs]


def same_options(repeat: repeated_blocks.Repeat, calls: Mapping[str, CallStrategies]) -> bool:
    """Whether the calls of all blocks have the same strategies in the same order."""
    first = [calls[node.name].strategies for node in repeat.nodes[0]]
    return all([calls[node.name].strategies for node in nodes] == first for nodes in repeat.nodes[1:])


def tied_keys(graph: Graph, repeats: Sequence[repeated_blocks.Repeat]) -> dict[str, str]:
    """The variables of later blocks by those of the first. A parameter that others read as well has a fan-out of its own."""
    outside = set(external_values(graph))
    readers = graph.consumers()
    tied = repeated_blocks.representatives(repeats)
    for repeat in repeats:
        for nodes in repeat.nodes[1:]:
            for node, first_node in zip(nodes, repeat.nodes[0], strict=True):
                for name, first_name in zip(node.inputs, first_node.inputs, strict=True):
                    if name in outside:
                        _tie(tied, "storage:" + name, "storage:" + first_name)
                        if {*readers[name]} <= {*nodes} and {*readers[first_name]} <= {*repeat.nodes[0]}:
                            _tie(tied, "fan_out:" + name, "fan_out:" + first_name)
    return {key: _root(tied, key) for key in tied}


def _tie(tied: dict[str, str], key: str, other: str) -> None:
    """Let two variables be one, together with all that are tied to them already."""
    key, other = _root(tied, key), _root(tied, other)
    if key != other:
        tied[key] = other


def _root(tied: Mapping[str, str], key: str) -> str:
    while key in tied:
        key = tied[key]
    return key
