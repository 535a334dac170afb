"""Which calls of a plan run whole for lack of a rule, what share of the compute they are, and which rules were discovered.

    unruled(plan) -> (Operator, ...)     operators without a rule, dearest first: calls, seconds, share of the compute
    unruled_share(plan) -> float         their shares together: what must be small for a model to be split well
    discovered(plan) -> (Operator, ...)  operators whose letters were found by running them (`autopar.ops.discovery.discover`)

The share is of predicted compute, forward and backward, on one rank of the plan: what runs whole counts in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autopar.ir.plan import NodePlan, Plan

HOW = "docs/adding_an_operator.md"
_MARK = "discovered: "  # as `autopar.ops.discovery.record` begins the note of such a record


@dataclass(frozen=True, slots=True)
class Operator:
    """The calls of one ATen target with one notation: their number, compute seconds, and share of the plan's compute."""

    target: str
    letters: str
    calls: int
    seconds: float
    share: float
    source: str  # where the first of them is


def unruled(plan: Plan) -> tuple[Operator, ...]:
    """The operators that have no rule, or whose rule refuses the call; dearest first."""
    return _operators(plan, lambda node: not node.ruled)


def discovered(plan: Plan) -> tuple[Operator, ...]:
    """The operators whose letters were found by running them, dearest first."""
    return _operators(plan, lambda node: node.ruled and node.letters.startswith(_MARK))


def unruled_share(plan: Plan) -> float:
    """The share of the predicted compute that runs whole for lack of a rule, between 0 and 1."""
    return sum((operator.share for operator in unruled(plan)), 0.0)


def _operators(plan: Plan, whether: Callable[[NodePlan], bool]) -> tuple[Operator, ...]:
    total = sum(node.seconds for node in plan.nodes) or 1.0
    groups: dict[tuple[str, str], list[NodePlan]] = {}
    for node in filter(whether, plan.nodes):
        groups.setdefault((node.target, node.letters.removeprefix(_MARK)), []).append(node)
    operators = []
    for (target, letters), nodes in groups.items():
        taken = sum(node.seconds for node in nodes)
        operators.append(Operator(target, letters, len(nodes), taken, taken / total, nodes[0].source))
    return tuple(sorted(operators, key=lambda operator: (-operator.seconds, operator.target, operator.letters)))
