"""``autopar explain build NAME``: what an operator could have done instead, and what each choice would have cost.

The model is priced again, as it was compiled. Calls of repeated blocks share a choice and are one entry, its costs those of all
of them together. With ``--json`` a list with one object per entry: ``module``, ``call``, ``target``, ``letters``, ``source``,
``code``, ``times`` (calls that share the choice), ``segments`` of a divided graph that they stand in (``segment``, ``function``,
``position``, ``times``) and ``alternatives``, cheapest first: ``choice`` (axis -> letter, or replicate,
copied, linear), ``own_seconds``, ``around_seconds``, ``change_seconds`` (of the step, the other calls staying), ``chosen``.

``--record`` prints Python instead: the records of the named operators whose letters were found by running them, to paste into
the model's file or to keep beside it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autopar.cli.option_types import count, results_only

if TYPE_CHECKING:
    from rich.table import Table

    from autopar.compiler import Compiled
    from autopar.ir.graph import Node
    from autopar.planning.alternatives import Alternative

NAME = "explain"
TEXT = "compare what an operator could have done, with costs"
_LEGEND = (
    "a letter is split over the axis; replicate, copied: every rank computes the whole call; linear 0: partial sums of operand 0",
    "around: conversions of operands and results, gradient sums and updates of its parameters. change: the other calls stay.",
)

_MOVED = "To have calls stand on another position: compile with --pin '{name}: {axis}=0', or --ban, which rules a position out."


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("name", help="a module path, a call's name, or a pattern over either ('*.c_fc')")
    parser.add_argument("--most", type=count(1), default=12, metavar="N", help="alternatives to show per operator (12)")
    record = "print the discovered rules of these operators as Python, ready to paste"
    parser.add_argument("--record", action="store_true", help=record)
    parser.add_argument("--json", action="store_true", help="print all alternatives as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Price the model again as the plan was, and print the alternatives."""
    from autopar.artifact import load
    from autopar.cli.tables import note, say, show
    from autopar.planning.alternatives import matching
    from autopar.recompile import recompile

    matching(load(arguments.folder).plan.nodes, arguments.name)  # a misspelled name is refused before the work
    with results_only(arguments.json):
        compiled = recompile(arguments.folder)
    calls = compiled.explain(arguments.name).calls
    if arguments.record:
        print(records(compiled, arguments.name, [node for node, _, _ in calls]), end="")
        return 0
    if arguments.json:
        print(json.dumps([_facts(compiled, *call) for call in calls]))
        return 0
    for node, times, alternatives in calls:
        say(*_title(compiled, node, times), *_segments(compiled, node), *_without_rule(compiled, node))
        show(_table(compiled, alternatives, arguments.most))
    note(*_LEGEND)
    if compiled.plan.placement is not None:
        note(_MOVED.format(name=arguments.name, axis=compiled.plan.placement.axis))
    if compiled.plan.options.pins:
        note(f"Pinned calls have no other choice: {', '.join(compiled.plan.options.pins)}")
    if compiled.plan.options.bans:
        note(f"Banned, and not among the choices: {', '.join(compiled.plan.options.bans)}")
    return 0


def records(compiled: Compiled, name: str, nodes: Sequence[Node]) -> str:
    """The records of the calls whose letters were discovered, each once. Raises ConfigError where there are none."""
    from autopar.errors import ConfigError, refusal
    from autopar.ops.discovery import discover
    from autopar.ops.record.user_functions import functions_among

    calls = [compiled.built.calls[node.name] for node in nodes]
    own = functions_among(node.target for node in nodes)
    if own:
        rule = (
            "a record is of an operator in torch.ops; a torch.autograd.Function is one only while its model is compiled"
        )
        fix = "make it an operator (torch.library.custom_op, register_autograd), and write its record: docs/adding_an_operator.md"
        names = [f"{function.name} of {function.module}" for function in own]
        raise ConfigError(refusal(f"explain {name!r} --record", "no record can be registered", rule, names, fix))
    texts = dict.fromkeys(discover.record_source(call.call) for call in calls if discover.is_discovered(call.op))
    if not texts:
        known = list(dict.fromkeys(f"{call.node.name} ({call.node.target}): {call.op.note}" for call in calls))
        rule = "a record can be printed of an operator whose letters were found by running it"
        fix = "name a call in the table of such operators that `autopar inspect` shows"
        raise ConfigError(refusal(f"explain {name!r} --record", "none of these calls is one", rule, known[:10], fix))
    return "\n".join(texts)


def _segments(compiled: Compiled, node: Node) -> list[str]:
    """Where in a divided graph the calls of an entry stand."""
    rows = (
        f"segment {row['segment']} ({row['function']}) on position {row['position']}"
        + (f", {row['times']} x" if row["times"] != 1 else "")
        for row in _segment_facts(compiled, node)
    )
    return ["stands in " + "; ".join(rows)] if compiled.plan.placement else []


def _segment_facts(compiled: Compiled, node: Node) -> list[dict[str, object]]:
    """Per segment that calls of an entry stand in: its number, function and position, and how many they are."""
    from autopar.planning.alternatives import sharing

    placement = compiled.plan.placement
    if placement is None:
        return []
    segments = placement.segment_of
    times = Counter(segments[name] for name in sharing(compiled.built, node.name))
    return [
        {
            "segment": number,
            "function": placement.segments[number].function,
            "position": placement.segments[number].position,
            "times": count,
        }
        for number, count in sorted(times.items())
    ]


def _without_rule(compiled: Compiled, node: Node) -> list[str]:
    """Why a call runs whole, where it does for lack of a rule."""
    from autopar.ops.discovery import discover

    call = compiled.built.calls[node.name]
    return [f"it has no rule, and none was found: {discover.why_not(call.call)}"] if call.rule.refused else []


def _title(compiled: Compiled, node: Node, times: int) -> list[str]:
    letters = next(call.letters for call in compiled.plan.nodes if call.name == node.name)
    from autopar.cli.tables import short

    repeated = f"  ({times} x)" if times > 1 else ""
    where = "  ".join(part for part in (node.source, node.code.strip()) if part)
    return [f"{node.module or compiled.plan.name}{repeated}  {where}", f"{node.name} = {short(node.target)}: {letters}"]


def _table(compiled: Compiled, alternatives: tuple[Alternative, ...], most: int) -> Table:
    from autopar.cli.tables import Heading, milliseconds, table

    names = compiled.built.grid.names
    listing = table(*(f"on {name}" for name in names), "own time", "around time", "step change")
    kept = [row for i, row in enumerate(alternatives) if i < most or row.chosen]
    for row in kept:
        change = "chosen" if row.chosen else f"{'+' if row.change >= 0 else '-'}{milliseconds(abs(row.change))}"
        cells = [*row.choice, milliseconds(row.own), milliseconds(row.around), change]
        listing.add_row(*(Heading(cell) if row.chosen else cell for cell in cells))
    if len(kept) < len(alternatives):
        listing.add_row(f"{len(alternatives) - len(kept)} more", *[""] * (len(listing.columns) - 1))
    return listing


def _facts(compiled: Compiled, node: Node, times: int, alternatives: tuple[Alternative, ...]) -> dict[str, object]:
    planned = next(call for call in compiled.plan.nodes if call.name == node.name)
    return {
        "module": node.module,
        "call": node.name,
        "target": node.target,
        "letters": planned.letters,
        "source": node.source,
        "code": node.code,
        "times": times,
        "segments": _segment_facts(compiled, node),
        "alternatives": [
            {
                "choice": dict(zip(compiled.built.grid.names, alternative.choice, strict=True)),
                "own_seconds": alternative.own,
                "around_seconds": alternative.around,
                "change_seconds": alternative.change,
                "chosen": alternative.chosen,
            }
            for alternative in alternatives
        ],
    }
