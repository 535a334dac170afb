"""Numbers, words and tables of a plan, for people.

Text that comes from the user's model is never read as markup: every console made here has markup, emoji codes and
highlighting switched off, and style is given by objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopar.analysis.fallbacks import HOW, discovered, unruled, unruled_share
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

LAYOUTS = "layouts: R replicate, C copied, P partial, S1 shard of dim 1, S1(3x_x64) in 3 blocks, in units of 64"
LETTERS = "letters: * several dims, (a b) one dim, [v] never split, h~ needs neighbours, k? optional, dN dim N"
TIMES = "times: one run of the line, forward and backward; 4 x: it runs 4 times a step; +: sent by each rank"
_WIDE = 160  # where standard output is no terminal and COLUMNS is not set


def console() -> Console:
    """Standard output."""
    from rich.console import Console

    plain = Console(markup=False, emoji=False, highlight=False)
    known = plain.is_terminal or "COLUMNS" in os.environ
    return plain if known else Console(markup=False, emoji=False, highlight=False, width=_WIDE)


def say(*lines: str) -> None:
    """Print lines as they are, unbroken."""
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)


def note(*lines: str) -> None:
    """Print lines, broken between words where they are too long, and an empty line."""
    for line in (*lines, ""):
        console().print(line)


def table(*columns: str, numbers: int | None = None) -> Table:
    """An empty table without vertical lines; columns of numbers are right-aligned: by their names, and from `numbers` on."""
    from rich import box
    from rich.table import Table

    listing = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for place, name in enumerate(columns):
        named = name in ("saved", "calls", "line") or name.endswith(("time", "times", "share", "change"))
        right = named or (numbers is not None and place >= numbers)
        listing.add_column(name, justify="right" if right else "left", overflow="fold")
    return listing


def show(listing: Table, *, title: str = "", cut: str = "", least: int = 36) -> None:
    """Print a table and an empty line.

    Where it is too wide, the column named `cut` gives way, down to `least` cells: its texts end in an ellipsis.
    """
    out = console()
    if cut:
        wide = out.options.update(width=100_000)
        excess = out.measure(listing, options=wide).maximum - out.width
        column = next(column for column in listing.columns if column.header == cut)
        widest = max((out.measure(cell, options=wide).maximum for cell in column.cells), default=0)
        if excess > 0:
            column.width = max(least, widest - excess)
    if title:
        out.print(Heading(title))
    out.print(listing)
    out.print()


def cut(text: str) -> Text:
    """A line of the user's code, or a name: as it stands, cut where there is no room for it."""
    from rich.text import Text

    clean = "".join(char if char.isprintable() else " " for char in text.rstrip())
    return Text(clean, no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True, slots=True)
class Heading:
    """A bold row: a path and something about it, which goes first where room is short; of a long path the end is kept."""

    path: str
    about: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        whole = f"{self.path}  {self.about}".rstrip()
        text = whole if len(whole) <= options.max_width else self.path
        kept = text if len(text) <= options.max_width else "\u2026" + text[1 - options.max_width :]
        yield Text(kept, style="bold", no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(1, max(1, len(f"{self.path}  {self.about}".rstrip())))


def milliseconds(seconds: float) -> str:
    """``1.84 ms``, or seconds from one second on."""
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms"


def short(target: str) -> str:
    """``linear`` for ``aten.linear.default``."""
    return target.removeprefix("aten.").removeprefix("autopar.").removesuffix(".default").removesuffix(".Tensor")


def layouts(texts: Sequence[str]) -> str:
    """``S1 C`` for shard 1 on the first axis and copied on the second; see `LAYOUTS`."""
    words = {"replicate": "R", "copied": "C", "partial": "P"}
    return " ".join(words.get(text) or re.sub(r" as (.*)", r"(\1)", text.replace("shard ", "S")) for text in texts)


def splits(node: NodePlan, axes: Sequence[str]) -> str:
    """``b0/data n/model``, or how the whole is computed."""
    pairs = zip(node.choices, axes, strict=True)
    cuts = [f"{choice.letter}/{axis}" for choice, axis in pairs if choice.mode == "split"]
    return " ".join(cuts) or "whole"


def amounts(move: ConversionPlan | InnerPlan) -> str:
    """``1.5 MiB, 1.5 MiB back``: what one rank sends; nothing where no byte moves."""
    parts = [bytes_text(move.bytes_forward)] if move.bytes_forward else []
    parts += [f"{bytes_text(move.bytes_adjoint)} back"] if move.bytes_adjoint else []
    return ", ".join(parts)


def show_fallbacks(plan: Plan) -> None:
    """Operators without a rule, and those whose rule was found by running them; nothing where there are none."""
    discoveries, whole = discovered(plan), unruled(plan)
    if discoveries:
        listing = table("operator", "discovered letters", "calls", "compute share", "where")
        for rule in discoveries:
            listing.add_row(short(rule.target), rule.letters, str(rule.calls), f"{rule.share:.1%}", rule.source)
        show(listing, title="these operators have no rule; their letters were found by running them on small shards")
        say("`autopar explain FOLDER NAME --record` prints such a rule as a record to keep", "")
    if whole:
        listing = table("operator", "calls", "compute share", "where")
        for operator in whole:
            listing.add_row(short(operator.target), str(operator.calls), f"{operator.share:.1%}", operator.source)
        listing.add_row("together", str(sum(operator.calls for operator in whole)), f"{unruled_share(plan):.1%}", "")
        show(listing, title="these operators have no rule and run whole on every rank")
        say(f"{HOW} says how to add a rule; `autopar explain FOLDER NAME` why none was found", "")


def shown(plan: Plan) -> list[tuple[NodePlan, int]]:
    """The calls to show with how often they run: of repeated blocks the first, with their number."""
    later = {f"{prefix}.{member}" for prefix, members in plan.repeats for member in members[1:]}
    return [
        (node, times(plan, node.module)) for node in plan.nodes if not any(inside(node.module, path) for path in later)
    ]


def times(plan: Plan, module: str) -> int:
    """How often a module's code runs in a step, counting repeated blocks."""
    counts = [len(members) for prefix, members in plan.repeats if inside(module, f"{prefix}.{members[0]}")]
    return counts[0] if counts else 1


def inside(module: str, path: str) -> bool:
    """Whether a module is the one at `path`, or in it."""
    return module == path or module.startswith(path + ".")


def joined(lines: Iterable[str]) -> str:
    """Lines of one cell."""
    return "\n".join(lines)
