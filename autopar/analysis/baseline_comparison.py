"""A plan beside the fixed ones: the same model, grid and machine, planned as each baseline says, under the same prices.

The memory limit holds for the chosen plan. The baselines are planned without it, so that the table can say what they would
take; those that do not fit are no rivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopar.errors import AutoparError
from autopar.planning import baselines, overlap

if TYPE_CHECKING:
    from autopar.compiler import Compiled
    from autopar.progress import Progress

UNLIMITED = 2.0**70
"""Bytes: more than any machine has."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One plan: what it does, and what a step takes on one rank. Seconds and bytes are predicted.

    cost      what the solver minimised, and the ratio compares; of all plans under the prices of the chosen one
    ratio     the chosen plan's cost as a part of this one's
    fits      whether the peak meets the memory limit
    refused   why there is no such plan; it has no numbers then
    """

    plan: str
    title: str
    cost: float | None = None
    seconds: float | None = None
    communication: float | None = None
    bytes: int | None = None
    fits: bool = False
    ratio: float | None = None
    refused: str = ""


def compare(compiled: Compiled, progress: Progress | None = None) -> tuple[Compared, ...]:
    """The plan as it was compiled, then every baseline that the model has, in the order of `autopar.planning.baselines`."""
    options, machine = compiled.plan.options, compiled.plan.machine
    limit = float(machine.memory_bytes) if options.memory is None else options.memory
    title = "as planned" if options.plan == baselines.FREE else baselines.BASELINES[options.plan].title
    rows = [_row(compiled, compiled, "chosen", title, limit)]
    for name, baseline in baselines.BASELINES.items():
        try:
            fixed = compiled.replan(plan=name, memory=UNLIMITED, progress=progress)
            rows.append(_row(fixed, compiled, name, baseline.title, limit))
        except AutoparError as error:
            rows.append(Compared(name, baseline.title, refused=_why(error)))
    return tuple(rows)


def best(rows: tuple[Compared, ...]) -> Compared | None:
    """The cheapest baseline that fits, None where there is none."""
    able = [(row.cost, place) for place, row in enumerate(rows) if place and row.fits and row.cost is not None]
    return rows[min(able)[1]] if able else None


def _row(compiled: Compiled, chosen: Compiled, name: str, title: str, limit: float) -> Compared:
    predicted, cost = compiled.plan.predicted, chosen.plan.solver.cost
    own = overlap.cost(compiled.built, compiled.solution.choice, chosen.built.unhidden)
    return Compared(
        plan=name,
        title=title,
        cost=own,
        seconds=predicted.seconds,
        communication=predicted.communication + predicted.gradients,
        bytes=predicted.bytes,
        fits=predicted.bytes <= limit,
        ratio=cost / own if own else 1.0,
    )


def _why(error: AutoparError) -> str:
    """The first line of a refusal without where it was."""
    line = str(error).splitlines()[0]
    return line.partition("does not apply: ")[2] or line
