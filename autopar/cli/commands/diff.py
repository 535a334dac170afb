"""``autopar diff PLAN PLAN``: what differs between two compiled folders of one model, whatever their grids and machines.

With ``--json`` one object: ``names``, ``grids``; ``settings``, what was asked for differently; ``totals`` with ``name``, ``unit``,
``before``, ``after``; ``calls`` whose split differs, ``homes`` of parameters and inputs that differ, ``conversions`` that only one
has (``sign`` ``-`` for the first, ``+`` for the second), ``places``, per module the calls that stand on another position, and
``apart``, calls of one plan alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from autopar.cli.option_types import count
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from autopar.analysis.plan_diff import Difference, Total

NAME = "diff"
TEXT = "show what differs between two plans"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("first", help="what `autopar compile` wrote")
    parser.add_argument("second", help="the folder of another plan of the same model")
    parser.add_argument("--most", type=count(1), default=20, metavar="N", help="rows to show per table (20)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print."""
    from autopar.analysis.plan_diff import diff
    from autopar.ir.plan_file import load_plan

    difference = diff(load_plan(arguments.first), load_plan(arguments.second))
    if arguments.json:
        print(json.dumps(asdict(difference)))
    else:
        _show(difference, arguments.most)
    return 0


def sentence(diff: Difference) -> str:
    """``+3.1% step, +12.0% communication, 6 operators split in another way``."""
    changes = [
        f"{total.change:+.1%} {total.name}" for total in diff.totals[:5] if total.change and abs(total.change) >= 5e-4
    ]
    count = diff.moved
    changes += [f"{count} operator{'s' if count > 1 else ''} split in another way"] if count else []
    elsewhere = sum(place.times for place in diff.places)
    changes += [f"{elsewhere} operator{'s' if elsewhere > 1 else ''} on another position"] if elsewhere else []
    return ", ".join(changes) or "the plans are the same"


def _show(diff: Difference, most: int) -> None:
    from autopar.cli.tables import say, show, table

    say(sentence(diff))
    listing = table("", "first", "second")
    for name, before, after in diff.settings:
        listing.add_row(name, before, after)
    if diff.settings:
        show(listing, title="asked for")
    listing = table("of a step, predicted", "first time", "second time", "change")
    for total in diff.totals:
        listing.add_row(total.name, _amount(total, total.before), _amount(total, total.after), _change(total))
    show(listing)
    show_changes(diff, most)


def show_changes(diff: Difference, most: int) -> None:
    """The calls, places, parameters and exchanges that differ, in tables of so many rows."""
    from autopar.cli.tables import cut, layouts, milliseconds, note, short, show, table

    if diff.calls:
        listing = table(
            "module", "calls", "operator", "code", "first split", "second split", "first time", "second time"
        )
        for call in diff.calls[:most]:
            spent = milliseconds(call.seconds_before), milliseconds(call.seconds_after)
            where = f"{call.module or '(model)'}  {call.source}".rstrip()
            listing.add_row(
                where, str(call.times), short(call.target), cut(call.code.strip()), call.before, call.after, *spent
            )
        show(listing, title=_title("calls that are split in another way", len(diff.calls), most), cut="code", least=12)
    if diff.places:
        listing = table("module", "calls", "first position", "second position")
        for place in diff.places[:most]:
            listing.add_row(
                place.module or "(model)", str(place.times), _position(place.before), _position(place.after)
            )
        show(listing, title=_title("calls that stand on another position", len(diff.places), most))
    if diff.homes:
        listing = table("parameter or input", "calls", "first", "second")
        for home in diff.homes[:most]:
            listing.add_row(home.name, str(home.times), layouts(home.before), layouts(home.after))
        show(listing, title=_title("parameters and inputs that lie elsewhere", len(diff.homes), most))
    if diff.conversions:
        listing = table("", "calls", "primitive", "axis", "value", "module", "memory", "time")
        for move in diff.conversions[:most]:
            spent = bytes_text(move.bytes), milliseconds(move.seconds)
            listing.add_row(move.sign, str(move.times), move.primitive, move.axis, move.value, move.module, *spent)
        show(
            listing,
            title=_title("exchanges of one plan alone (-: the first, +: the second)", len(diff.conversions), most),
        )
    for which, names in zip(("first", "second"), diff.apart, strict=True):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            note(f"Calls of the {which} plan alone, not compared: {', '.join(names[:10])}{more}")


def _position(position: int | None) -> str:
    return "all ranks" if position is None else str(position)


def _title(text: str, count: int, most: int) -> str:
    return text if count <= most else f"{text} ({most} of {count}; --most shows more)"


def _amount(total: Total, amount: float) -> str:
    from autopar.cli.tables import milliseconds

    return milliseconds(amount) if total.unit == "s" else bytes_text(amount)


def _change(total: Total) -> str:
    if total.change is None:
        return "" if total.before == total.after else "new"
    return f"{total.change:+.1%}" if total.change else ""
