"""The annotated source: the model's own lines, under the module in whose forward they stand.

A call is made by a module and written on a line. A line that calls a small module (``h = self.fc1(x)``) stands in its parent's
forward, so it is shown there with the small module's name beside it. Lines follow each other as they run. Under a line stands
what is exchanged for it: before the call, or inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopar.cli.tables import (
    Heading,
    amounts,
    cut,
    inside,
    milliseconds,
    short,
    shown,
    splits,
    table,
    times,
)
from autopar.ir.grid import GridShape
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Calls that one source line makes in one module. `owner` is the module whose forward the line stands in."""

    owner: str
    module: str
    source: str
    calls: tuple[NodePlan, ...]

    @property
    def heaviest(self) -> NodePlan:
        """The call that takes longest."""
        return max(self.calls, key=lambda call: call.seconds)


def group(plan: Plan) -> list[SourceLine]:
    """The lines in order of execution; of repeated blocks the first."""
    composite = {node.module.rpartition(".")[0] for node in plan.nodes if node.module}
    lines: list[SourceLine] = []
    for node, _ in shown(plan):
        owner = _owner(node.module, composite)
        last = lines[-1] if lines else None
        if last and (last.owner, last.source) == (owner, node.source) and node.module in (last.module, owner):
            lines[-1] = SourceLine(owner, last.module, last.source, (*last.calls, node))
        else:
            lines.append(SourceLine(owner, node.module, node.source, (node,)))
    return lines


def _owner(module: str, composite: set[str]) -> str:
    """The module itself where it has modules inside that are called; otherwise its parent, lists of modules left out."""
    if module in composite or not module:
        return module
    parent, _, name = module.rpartition(".")
    return parent.rpartition(".")[0] if name.isdigit() else parent


def lines(plan: Plan) -> Table:
    """The table of all lines."""
    listing = table("line", "module", "code", "split", "time", "saved")
    axes = GridShape.parse(plan.grid).names
    shown_as: tuple[str, str] | None = None
    rest = [conversion for conversion in plan.conversions if not conversion.consumers]
    for line in group(plan):
        entering = [move for move in rest if move.module and line.calls[0].within(move.module)]
        rest = [move for move in rest if move not in entering]
        add_moved(listing, entering)
        file, _, number = line.source.rpartition(":")
        if shown_as != (line.owner, file):
            shown_as = (line.owner, file)
            often = times(plan, line.owner)
            about = "  ".join([file, *segments_of(plan, line.owner)])
            listing.add_row("", f"{often} x" if often > 1 else "", Heading(line.owner or plan.name, about))
        name = line.module.removeprefix(line.owner).lstrip(".")
        often = times(plan, line.module) if name and times(plan, line.owner) == 1 else 1
        until = line.calls.index(line.heaviest) + 1
        add_moved(listing, converted(plan, line.calls[:until]))
        listing.add_row(
            number,
            f"{name}  {often} x" if often > 1 else name,
            cut(line.heaviest.code.strip()),
            splits(line.heaviest, axes),
            _or_nothing(milliseconds, sum(call.seconds for call in line.calls)),
            _or_nothing(bytes_text, sum(call.saved_bytes for call in line.calls)),
        )
        add_moved(
            listing, (*converted(plan, line.calls[until:]), *(inner for call in line.calls for inner in call.inner))
        )
    add_moved(listing, rest)
    return listing


def segments_of(plan: Plan, module: str) -> list[str]:
    """In which segments of a divided graph the calls of a module stand, those of its like in other repeated blocks among them."""
    if plan.placement is None:
        return []
    paths = [module]
    for prefix, members in plan.repeats:
        first = f"{prefix}.{members[0]}"
        if inside(module, first):
            paths += [f"{prefix}.{member}{module.removeprefix(first)}" for member in members[1:]]
    calls = [node.name for node in plan.nodes if any(inside(node.module, path) for path in paths)]
    segments = plan.placement.segment_of
    numbers = sorted({segments[name] for name in calls})
    return [f"segment{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"] if numbers else []


def letters(plan: Plan, *, every: bool = False) -> Table:
    """The letters of every operator, or of those only that are neither elementwise nor free."""
    listing = table("operator", "letters")
    calls = [node for node, _ in shown(plan) if every or (node.seconds and not node.letters.startswith("d*"))]
    notes = {short(node.target): node.letters for node in calls}
    for name, note in sorted(notes.items()):
        listing.add_row(name, note)
    return listing


def converted(plan: Plan, calls: Iterable[NodePlan]) -> list[ConversionPlan]:
    """The conversions that these calls ask for."""
    names = {call.name for call in calls}
    return [conversion for conversion in plan.conversions if names & set(conversion.consumers)]


def add_moved(listing: Table, moves: Iterable[ConversionPlan | InnerPlan]) -> None:
    """A row per primitive that sends anything: what in the widest column, its time."""
    for move in moves:
        if amounts(move):
            text = f"+ {move.primitive} {amounts(move)}"
            taken = milliseconds(move.seconds)
            cells = {"code": text, "operator": f"  {text}", "split": f"over {move.axis}", "time": taken}
            listing.add_row(*(cells.get(str(column.header), "") for column in listing.columns))


def _or_nothing(say: Callable[[float], str], amount: float) -> str:
    return say(amount) if amount else ""
