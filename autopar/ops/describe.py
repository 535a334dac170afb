"""From a node of a graph to what the compiler knows of it: its call, its record, its rule.

call_of(graph, node) -> Call     the node with shapes and dtypes
op_of(node) -> Op                the record, or the fallback
rule_of(graph, node) -> Rule     its letters; no letter to split where there is no record or the record refuses the call
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from autopar.graph import Graph, Node, Value
from autopar.ops.fallback import FALLBACK, emit_whole, whole_rule
from autopar.ops.op import Local, Op, registry
from autopar.ops.rule import Call, Rule

_UNREAD = Value("", (), "float32", False)


def call_of(graph: Graph, node: Node) -> Call:
    """The node together with what its tensors are. A result that nobody reads has an empty name and no known shape."""
    operands = tuple(graph.values[name] for name in node.inputs)
    return Call(node, operands, tuple(graph.values[name] if name else _UNREAD for name in node.outputs))


@cache
def _of_target(target: str) -> Op:
    op = registry().get(target)
    if op is None:
        return FALLBACK
    emit = op.emit

    def guarded(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        return (emit_whole if rule.refused else emit)(call, rule, local, args, kwargs)

    return replace(op, emit=guarded)


def op_of(node: Node) -> Op:
    """The record of the node's target, or the fallback. A call that the record refuses is printed by the fallback."""
    return _of_target(node.target)


def rule_of_call(call: Call) -> Rule:
    """The letters of a call, nothing to split where its record raises ValueError."""
    try:
        return op_of(call.node).rule(call)
    except ValueError:
        return whole_rule(call)


def rule_of(graph: Graph, node: Node) -> Rule:
    """The letters of a node."""
    return rule_of_call(call_of(graph, node))
