"""What a call could have done instead, and what the step would then cost: the priced problem looked at around one variable.

Per choice s of the call, with every other call kept and every tensor t beside it free to take its best layout,

    cost(s) = own(s) + sum over calls of edge(s, chosen) + sum over tensors of min_t edge(s, t) + own(t) + around(t)

where around(t) is the same sum for the tensor without the call. Tensors are parameters, inputs, and values with several readers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar, cast

import numpy as np

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.graph import Node
from autopar.ir.layout import Partial
from autopar.ir.plan import NodePlan
from autopar.ops.record.rule import Choice
from autopar.partitioner.formulation.priced_problem import PricedProblem
from autopar.partitioner.formulation.strategies import Strategy
from autopar.partitioner.problem import Array

Named = TypeVar("Named", Node, NodePlan)


@dataclass(frozen=True, slots=True)
class Alternative:
    """One strategy of a call: what it does per axis, its own seconds, the seconds around it, and whether it is chosen.

    `around` are conversions of operands and results, and the gradient sums and updates of its parameters. `change` is that of
    the whole step when this call changes and the other calls stay: parameters move to where the call then wants them.
    """

    choice: tuple[str, ...]
    own: float
    around: float
    change: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """Per matching call the number of calls that share its choice (repeated blocks), and the alternatives, cheapest first."""

    calls: tuple[tuple[Node, int, tuple[Alternative, ...]], ...]


def explain(built: PricedProblem, choice: Sequence[int], name: str) -> Explanation:
    """Compare what each call named `name` (module path, call name, or a pattern over either) could do instead."""
    keys = {node.name: built.tied.get("node:" + node.name, "node:" + node.name) for node in built.graph.nodes}
    groups: dict[str, Node] = {}
    for node in matching(built.graph.nodes, name):
        groups.setdefault(keys[node.name], node)
    sharing, beside = Counter(keys.values()), _neighbours(built)
    return Explanation(
        tuple((node, sharing[key], _alternatives(built, choice, key, beside)) for key, node in groups.items())
    )


def sharing(built: PricedProblem, name: str) -> list[str]:
    """The calls that share the choice of a call: itself, and its like in other repeated blocks."""
    keys = {node.name: built.tied.get("node:" + node.name, "node:" + node.name) for node in built.graph.nodes}
    return [other for other, key in keys.items() if key == keys[name]]


def matching(nodes: Sequence[Named], name: str) -> list[Named]:
    """The calls in or named `name`: a module path, a call's name, or a pattern over either. Raises ConfigError for none."""
    matches = [node for node in nodes if _matches(node, name)]
    if not matches:
        paths: set[str] = {
            ".".join(node.module.split(".")[:i]) for node in nodes for i in range(1, node.module.count(".") + 2)
        }
        fault = f"no such module or call{nearest(name, [*sorted(paths - {''}), *(node.name for node in nodes)])}"
        rule = "a name is a module path, a call's name, or a pattern over either"
        fix = "take one out of `autopar inspect FOLDER --view module`"
        raise ConfigError(refusal(f"explain {name!r}", fault, rule, fix=fix))
    return matches


def _matches(node: Node | NodePlan, name: str) -> bool:
    inside = node.module == name or node.module.startswith(name + ".")
    return node.name == name or inside or fnmatchcase(node.module, name) or fnmatchcase(node.name, name)


# Per variable its neighbours, each with costs[own choice, neighbour's choice].
_Beside = Mapping[int, Sequence[tuple[int, Array]]]


def _neighbours(built: PricedProblem) -> _Beside:
    beside: dict[int, list[tuple[int, Array]]] = {i: [] for i in range(len(built.keys))}
    for edge in built.problem.edges:
        beside[edge.a].append((edge.b, edge.costs))
        beside[edge.b].append((edge.a, edge.costs.T))
    return beside


def _alternatives(built: PricedProblem, choice: Sequence[int], key: str, beside: _Beside) -> tuple[Alternative, ...]:
    at = built.keys.index(key)
    own = built.problem.nodes[at].costs
    around = _around(built, choice, at, beside, frozenset())
    total = own + around
    now = choice[at]
    rows = [
        Alternative(
            tuple(map(_spell, strategy)), float(own[i]), float(around[i]), float(total[i] - total[now]), i == now
        )
        for i, strategy in enumerate(cast(Sequence[Strategy], built.options[key]))
        if np.isfinite(total[i])
    ]
    return tuple(sorted(rows, key=lambda row: (row.change, not row.chosen)))


def _spell(choice: Choice) -> str:
    """The choice as text; where partial sums pass through, with the operands that they are in."""
    if choice.mode != "linear":
        return str(choice)
    return f"linear {','.join(str(i) for i, layout in enumerate(choice.operands) if isinstance(layout, Partial))}"


def _around(built: PricedProblem, choice: Sequence[int], at: int, beside: _Beside, seen: frozenset[int]) -> Array:
    """Per choice of a variable the cost of its edges: calls keep their choice, tensors take their best."""
    total = np.zeros(len(built.problem.nodes[at].costs))
    for other, costs in beside[at]:
        if other in seen:
            continue
        if built.keys[other].startswith("node:"):
            total = total + costs[:, choice[other]]
        else:
            inner = built.problem.nodes[other].costs + _around(built, choice, other, beside, seen | {at})
            total = total + (costs + inner).min(axis=1)
    return total
