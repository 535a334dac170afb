"""Why there is no plan: which constraint binds, by how much, and the nearest limit, pin or ban that would let one through.

memory      the least peak that was found is above the limit: that peak is the nearest limit that works
(`autopar.planning.memory_limit`) pins, bans  no choice is left at all: those are named without which there is one
both        the least peak is above the limit, and less than that without some pin or ban
a baseline  counts like a pin
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autopar.costmodel import memory
from autopar.errors import InfeasiblePlan, refusal
from autopar.ir.plan import Options
from autopar.ir.units import bytes_precisely
from autopar.planning.candidate import Candidate
from autopar.planning.memory_limit import Fitted
from autopar.planning.microbatch_search import AUTO
from autopar.planning.request import Request

_RULES = (
    "all that a rank holds in a step fits the limit at every time",
    "all that a step holds, dealt evenly to the positions, fits the limit of their ranks",
)
_TRIALS = 8
"""Pins and bans that are taken away one by one to see whether they bind."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """What could be taken away, and the least peak without it (0 where any limit does, infinite where there is no plan)."""

    what: str
    peak: float


def relaxations(options: Options) -> list[tuple[str, Options]]:
    """The options without each pin, ban and fixed plan, and without all of them; with what is taken away in words."""
    others = [
        (f"pin {text!r}", replace(options, pins=(*options.pins[:i], *options.pins[i + 1 :])))
        for i, text in enumerate(options.pins)
    ]
    others += [
        (f"ban {text!r}", replace(options, bans=(*options.bans[:i], *options.bans[i + 1 :])))
        for i, text in enumerate(options.bans)
    ]
    others += [(f"plan {options.plan!r}", replace(options, plan="auto"))] if options.plan != "auto" else []
    if len(others) > 1:
        others = [*others[:_TRIALS], ("all of them", replace(options, pins=(), bans=(), plan="auto"))]
    return others


def no_plan(request: Request, missed: Fitted | None, relaxed: Sequence[Relaxed]) -> InfeasiblePlan:
    """Why no plan fits: by how much the limit is missed, what binds, and what would help."""
    where = f"{request.graph.name} on grid {request.whole or request.grid}"
    if missed is None:
        return _impossible(where, request.limit, relaxed)
    freer = [freed for freed in relaxed if freed.peak < missed.least.peak]
    return _over_memory(request, where, missed, freer)


def _impossible(where: str, limit: float, relaxed: Sequence[Relaxed]) -> InfeasiblePlan:
    helpful = [freed for freed in relaxed if math.isfinite(freed.peak)]
    lines = [_without(freed, limit) for freed in helpful]
    if not relaxed:
        rule, fix = "neighbouring calls must be able to hand tensors to each other", "use a smaller grid"
        return InfeasiblePlan(refusal(where, "no choice of splits is possible", rule, fix=fix))
    rule = "with what is pinned and banned, neighbouring calls can still hand tensors to each other"
    fix = f"take away {' or '.join(freed.what for freed in helpful[:3])}" if helpful else "use a smaller grid"
    return InfeasiblePlan(refusal(where, "the pins and bans leave no choice of splits", rule, lines, fix))


def _over_memory(request: Request, where: str, missed: Fitted, freer: list[Relaxed]) -> InfeasiblePlan:
    graph, options, positions = request.graph, request.options, request.whole.positions if request.whole else 1
    held, state = missed.least.held, memory.optimizer_copies(options.optimizer)
    rank, times = _scarcest(missed.least), float(positions)
    if rank is not None:
        times = request.limit / missed.least.ranks[rank].memory
    limit, least, of = (
        request.limit / times,
        missed.least.peak / times,
        "per rank" if rank is None else f"of rank {rank}",
    )
    trained = sum(graph.values[item.value].nbytes for item in graph.parameters if item.kind == "parameter")
    own = rank is not None and request.machine.class_of(rank).memory_bytes == limit
    entry = "memory_bytes of its [[ranks]] in the machine profile" if own else "--memory"
    ways = [f"raise {entry} to {bytes_precisely(least, up=True)}"]
    freer = [replace(freed, peak=freed.peak / times) for freed in freer]
    ways += [f"take away {freed.what}" for freed in freer if freed.peak <= limit][:3]
    divided = options.microbatches == AUTO or request.microbatches > 1 or request.whole is not None
    ways += ["use more ranks", "use a smaller batch" if divided else "divide the batch (--microbatches auto)"]
    ways += ["raise --time-limit, which cut the search short"] if missed.hurried else []
    ways += ["count an optimizer with less state (--optimizer sgd)"] if state else []
    limits = [*(["pins"] if options.pins else []), *(["bans"] if options.bans else [])]
    limits += [f"plan {options.plan!r}"] if options.plan != "auto" else []
    under = f" with its {' and '.join(limits)}" if limits else ""
    lines = [
        f"most is held in {held.where(held.at)}",
        f"parameters, gradients and {options.optimizer} state are {bytes_precisely(trained * (2 + state))} before any split",
    ]
    return InfeasiblePlan(
        refusal(
            f"memory limit {bytes_precisely(limit)} {of}",
            f"{where}{under} needs {bytes_precisely(least)} {of}, {bytes_precisely(least - limit)} more: the least peak found",
            _RULES[request.whole is not None],
            lines + [_without(freed, limit) for freed in freer],
            ", or ".join(ways),
        )
    )


def _scarcest(least: Candidate) -> int | None:
    """The rank that fills most of its memory, where ranks are not alike."""
    if not least.built.memories:
        return None
    return max(range(len(least.ranks)), key=lambda i: least.ranks[i].peak / least.ranks[i].memory)


def _without(freed: Relaxed, limit: float) -> str:
    """What taking something away would change."""
    if freed.peak <= limit:
        return f"without {freed.what} a plan fits"
    return f"without {freed.what} a plan needs {bytes_precisely(freed.peak)} per rank"
