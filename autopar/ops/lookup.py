"""From a node of a graph to what the compiler knows of it: its call, its record, its rule.

call_of(graph, node) -> Call     the node with shapes and dtypes
op_of(node) -> Op                the record, or the fallback
record_of_call(call) -> Op, Rule the record and the letters of a call; where there is no record, or it refuses the call,
                                 what running it on small shards shows; no letter to split where that shows nothing
rule_of(graph, node) -> Rule     the letters alone
without_record(graph) -> Calls   those that running them must tell about
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from autopar.internal_errors import error_text
from autopar.ir.graph import Graph, Node, Value
from autopar.ops.broken_records import flaw
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.fallback import FALLBACK, emit_whole, whole_rule
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Rule
from autopar.ops.registry import record_of

_UNREAD = Value("", (), "float32", False)


def call_of(graph: Graph, node: Node) -> Call:
    """The node together with what its tensors are. A result that nobody reads has an empty name and no known shape."""
    operands = tuple(graph.values[name] for name in node.inputs)
    return Call(node, operands, tuple(graph.values[name] if name else _UNREAD for name in node.outputs))


@cache
def _guarded(op: Op) -> Op:
    """The record, with calls that it refuses printed by the fallback."""
    emit = op.emit

    def guarded(ctx: EmitContext) -> str:
        return (emit_whole if ctx.rule.refused else emit)(ctx)

    return replace(op, emit=guarded)


def op_of(node: Node) -> Op:
    """The record of the node's target, or the fallback. A call that the record refuses is printed by the fallback."""
    if node.whole:
        return _because(node.whole)
    op = record_of(node.target)
    return FALLBACK if op is None else _guarded(op)


@cache
def _because(why: str) -> Op:
    """The fallback of a call that its record fails."""
    return replace(FALLBACK, note=f"{FALLBACK.note}: {why}")


def record_of_call(call: Call) -> tuple[Op, Rule]:
    """The record and the letters of a call: those of its record, or of a record that running it gives (`discover`).

    Nothing may be split where there is neither, nor where a stage has found the record wrong.
    """
    from autopar.ops.discovery import discover
    from autopar.ops.record import user_functions  # torch is not needed where every call has a record

    op, (rule, why) = op_of(call.node), _rule(call)
    if rule is not None:
        return op, rule
    learned = None if call.node.whole else discover.discovered(call)
    joined = user_functions.kept(call.node.target) is not None
    if learned is None:
        op = _because(why) if why and not call.node.target.startswith("autopar.") else op
        return op, replace(whole_rule(call), joined=joined)
    return (learned if op is FALLBACK else discover.priced_as(learned, op)), replace(learned.rule(call), joined=joined)


def _rule(call: Call) -> tuple[Rule | None, str]:
    """The letters by the call's record; None where it has none or refuses the call, with the reason where it fails."""
    op = op_of(call.node)
    try:
        rule = op.rule(call)
    except ValueError:
        return None, ""
    except Exception as error:  # a rule is asked about calls that nobody thought of
        return None, f"its rule fails: {error_text(error)}"
    if rule.refused:
        return None, ""
    why = flaw(rule, call)
    return (None, why) if why else (rule, "")


def without_record(graph: Graph) -> list[Call]:
    """The calls that have no record, or whose record refuses them."""
    calls = (call_of(graph, node) for node in graph.nodes)
    return [call for call in calls if not call.node.whole and _rule(call)[0] is None]


def rule_of_call(call: Call) -> Rule:
    """The letters of a call."""
    return record_of_call(call)[1]


def rule_of(graph: Graph, node: Node) -> Rule:
    """The letters of a node."""
    return rule_of_call(call_of(graph, node))
