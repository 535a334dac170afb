"""What becomes of an operator that a stage cannot handle: its calls run whole on every rank, and the report says why.

A record may be wrong for a call that nobody thought of: its rule raises, or does not fit the call; its emitter raises;
what it claims is unsound. That is a mistake of the record, no reason to refuse the model. `Node.whole` says of a call that
it runs whole, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

from autopar.errors import AutoparError, InternalError, refusal
from autopar.internal_errors import BrokenCall, error_text
from autopar.ir.graph import Graph, Node
from autopar.ops import saved_tensors
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Dims, Rule


def rehearse(op: Op, rule: Rule, call: Call) -> None:
    """Ask a record everything that a plan will ask it about a call. Raises BrokenCall where it fails."""
    with failing(call):
        if op.flops is not None and not rule.refused:
            op.flops(call, rule)
        for split in ((), *((letter,) for letter in rule.letters)):
            saved_tensors.words(call, rule, op, split)
            saved_tensors.scratch(call, rule, op, split)
        for letter in rule.letters:
            for part in (op.inner, op.launches):
                if part is not None:
                    part(call, rule, letter)
            if op.skew is not None:
                op.skew(call, rule, letter, Fraction(0), Fraction(1, 2))


@contextmanager
def failing(call: Call) -> Iterator[None]:
    """Whatever a record raises about a call is BrokenCall, but for refusals that are meant."""
    try:
        yield
    except (AutoparError, BrokenCall):
        raise
    except Exception as error:  # a record may raise anything, a user's own included
        raise BrokenCall(call.node.name, f"its record fails: {error_text(error)}") from error


def flaw(rule: Rule, call: Call) -> str:
    """Why a rule does not fit its call, or nothing where it does."""
    pairs = [*zip(call.operands, rule.operands, strict=False), *zip(call.results, rule.results, strict=False)]
    if len(pairs) != len(call.operands) + len(call.results) or len(pairs) != len(rule.operands) + len(rule.results):
        return "the rule is for another number of tensors"
    for value, dims in pairs:
        if value.name and (len(dims) != len(value.shape) or _unknown(dims, rule)):
            return f"the rule does not describe {value.name} of shape {value.shape}"
    return ""


def _unknown(dims: Dims, rule: Rule) -> bool:
    return any(letter not in rule.extents for dim in dims for letter in dim)


def whole_from_now(graph: Graph, broken: BrokenCall) -> Graph:
    """The graph in which all calls of that operator run whole. Raises InternalError where they cannot or do already."""
    node = next(node for node in graph.nodes if node.name == broken.name)
    if node.whole or node.target.startswith("autopar."):
        where = f"{node.source}: `{node.code}`" if node.source else node.name
        rule = f"{node.target} is computed by a record of autopar's, and this one fails"
        fix = "this is a mistake of autopar: report it, with the line above"
        raise InternalError(refusal(where, broken.why, rule, (), fix)) from broken

    def marked(other: Node) -> Node:
        return replace(other, whole=broken.why) if other.target == node.target else other

    return replace(graph, nodes=tuple(map(marked, graph.nodes)))
