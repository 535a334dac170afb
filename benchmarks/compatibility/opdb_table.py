"""What the operators of PyTorch's database come to, in numbers and as a section of docs/compatibility.md."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Iterable

import torch

import autopar
from benchmarks.compatibility.opdb_trial import ORDER, OperatorOutcome

HEADING = """\
## Operators

PyTorch's own operator database (`torch.testing._internal.common_methods_invocations.op_db`), each operator on samples spread over
those of the database, in float64 with gradients where it has any. Every call is pinned to each of its letters, on every grid; all
results and all gradients are compared with eager, to 1e-10 of the largest (`make opdb`)."""


def summary(rows: Iterable[OperatorOutcome]) -> str:
    """The counts in a line."""
    rows = list(rows)
    counts = Counter(row.status for row in rows)
    comparable = len(rows) - counts["nocompare"]
    split = sum(row.status == "ok" and is_split(row) for row in rows)
    numbers = ", ".join(f"{counts[status]} {status}" for status in (*reversed(ORDER), "nocompare") if counts[status])
    return f"{len(rows)} operators, {comparable} comparable: {numbers}; {split} of those that are ok split"


def is_split(row: OperatorOutcome) -> bool:
    """Whether some call of it was split, or nothing is left of it to compute."""
    return bool(row.split) or not row.whole


def section(rows: Iterable[OperatorOutcome]) -> str:
    """The section of the document."""
    rows = sorted(rows, key=lambda row: row.name)
    bad = [row for row in rows if row.status in ORDER[:-1]]
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, autopar {autopar.__version__}"
    programs = sum(row.programs for row in rows)
    today = f"{datetime.datetime.now(datetime.UTC):%d %B %Y}"
    depth = Counter((row.asked, row.grids) for row in rows if row.grids)
    depths = "; ".join(
        f"{count} operators on up to {asked} samples, grids {' and '.join(grids)}"
        for (asked, grids), count in depth.most_common()
    )
    lines = [
        HEADING,
        "",
        f"{today}, {versions}. {programs} programs were run: {depths}.",
        "",
        f"**{summary(rows)}.**",
        "",
    ]
    lines += ["Not right, or not in all samples:", "", "| operator | status | right | reason |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.status} | {row.right} of {row.samples} | {_cell(row.why)} |" for row in bad]
    whole = [row for row in rows if row.status == "ok" and not is_split(row)]
    lines += ["", f"Right, and whole on every rank ({len(whole)}): {_names(whole)}."]
    left = [row for row in rows if row.status == "nocompare"]
    lines += ["", f"Not compared ({len(left)}):", ""]
    groups: dict[str, list[OperatorOutcome]] = {}
    for row in left:
        groups.setdefault(row.why[0].split(":")[0] if row.why else "", []).append(row)
    lines += [f"* {why}: {_names(members)}" for why, members in sorted(groups.items())]
    return "\n".join(lines)


def _names(rows: Iterable[OperatorOutcome]) -> str:
    return ", ".join(f"`{row.name}`" for row in rows) or "none"


def _cell(why: tuple[str, ...]) -> str:
    first = (why[0] if why else "").split(": ", 1)[-1]
    return first.replace("|", "/")[:240]
