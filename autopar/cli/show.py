"""Tables of a plan, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autopar.plan import ConversionPlan, NodePlan, Plan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console() -> Console:
    """Standard output; wide enough not to break lines where it is not a terminal."""
    from rich.console import Console

    plain = Console(soft_wrap=True)
    return plain if plain.is_terminal else Console(width=180, soft_wrap=True)


def milliseconds(seconds: float) -> str:
    """``1.84 ms``."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(count: float) -> str:
    """``41 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def splits(node: NodePlan, axes: Sequence[str]) -> str:
    """``b0/data n/model``, or how the whole is computed."""
    cuts = [f"{one.letter}/{axis}" for one, axis in zip(node.choices, axes, strict=True) if one.mode == "split"]
    return " ".join(cuts) or "whole"


def moved(one: ConversionPlan) -> str:
    """``all_sum/model 1.5 MiB + 0 B back``."""
    ways = [f"{size(one.bytes_forward)}"] if one.bytes_forward else []
    ways += [f"{size(one.bytes_adjoint)} back"] if one.bytes_adjoint else []
    return f"{one.primitive}/{one.axis} {' + '.join(ways)}".rstrip()


def communication(plan: Plan, node: NodePlan) -> list[str]:
    """What is exchanged for a call: conversions of its operands, and inside it."""
    before = [moved(one) for one in plan.conversions if node.name in one.consumers]
    inside = [
        f"{one.primitive}/{one.axis} {size(one.bytes_forward)} + {size(one.bytes_adjoint)} back" for one in node.inner
    ]
    return before + inside


def shown(plan: Plan) -> list[tuple[NodePlan, int]]:
    """The calls to show with how often they run: of repeated blocks the first, numbered as a range."""
    later = {
        f"{prefix}.{member}": len(members) for prefix, members in plan.repeats for member in members[1:]
    }
    first = {f"{prefix}.{members[0]}": len(members) for prefix, members in plan.repeats}
    found = []
    for node in plan.nodes:
        if not any(_inside(node.module, path) for path in later):
            found.append((node, next((count for path, count in first.items() if _inside(node.module, path)), 1)))
    return found


def _inside(module: str, path: str) -> bool:
    return module == path or module.startswith(path + ".")


def fallback_table(plan: Plan) -> Table | None:
    """The operators without a rule, how often they occur, and their share of the compute; None where there are none."""
    from rich.table import Table

    total = sum(node.seconds_forward + node.seconds_backward for node in plan.nodes) or 1.0
    counts: dict[str, list[float]] = {}
    for node in plan.nodes:
        if not node.ruled:
            counts.setdefault(node.target, []).append(node.seconds_forward + node.seconds_backward)
    if not counts:
        return None
    table = Table(title="operators without a rule run whole on every rank (add one record in autopar/ops/)")
    for column in ("operator", "calls", "share of compute"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for target, seconds in sorted(counts.items(), key=lambda item: -sum(item[1])):
        table.add_row(target, str(len(seconds)), f"{sum(seconds) / total:.1%}")
    return table
