"""Why there is no plan: which constraint binds, by how much, and the nearest limit, pin or ban that would let one through.

memory      the least peak that any choice reaches is above the limit: that peak is the nearest limit that works
pins, bans  no choice is left at all: those are named without which there is one
both        the least peak is above the limit, and less than that without some pin or ban
a baseline  counts like a pin
time        a choice fits, and was not found
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from autopar.costmodel import memory
from autopar.errors import ConfigError, InfeasiblePlan, refusal
from autopar.partitioner.build import Built
from autopar.partitioner.problem import NoChoice
from autopar.partitioner.solve import solve
from autopar.plan import Options

_TRIALS = 8
"""Pins and bans that are taken away one by one to see whether they bind."""

Again = Callable[[Options], Built]
"""The same model priced with other pins and bans, and every way to save memory."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """What could be taken away, and the least peak without it (0 where any limit does, infinite where none)."""

    what: str
    peak: float


def no_plan(built: Built, error: NoChoice, options: Options, again: Again) -> InfeasiblePlan:
    """Why no plan fits: by how much the limit is missed, what binds, and what would help."""
    limit, least = built.problem.limit, error.least_peak
    assert limit is not None
    where = f"{built.graph.name} on grid {built.grid}"
    if least is None:
        return _impossible(where, limit, list(_trials(options, again, limit)))
    if least <= limit:
        given = f"the solver found no plan in time, though one needs {_bytes(least)} only"
        rule, fix = "a plan fits the limit, and is found within the time limit", "raise --time-limit or --memory"
        return InfeasiblePlan(refusal(f"memory limit {_bytes(limit)} per rank", given, rule, fix=fix))
    freer = [one for one in _trials(options, again, limit) if one.peak < least]
    return _over_memory(built, limit, least, options, freer)


def _trials(options: Options, again: Again, limit: float) -> Iterator[_Trial]:
    """The least peak without each pin, ban and baseline, and without all of them."""
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
    for what, asked in others:
        yield _Trial(what, _least(again, asked, limit))


def _least(again: Again, options: Options, limit: float) -> float:
    try:
        problem = again(options).problem
        return min(solve(replace(problem, limit=limit), time_limit=options.time_limit).peak, limit)
    except NoChoice as error:
        return math.inf if error.least_peak is None else error.least_peak
    except ConfigError:
        return math.inf


def _impossible(where: str, limit: float, trials: list[_Trial]) -> InfeasiblePlan:
    helpful = [one for one in trials if math.isfinite(one.peak)]
    lines = [_without(one, limit) for one in helpful]
    if not trials:
        rule, fix = "neighbouring calls must be able to hand tensors to each other", "use a smaller grid"
        return InfeasiblePlan(refusal(where, "no choice of splits is possible", rule, fix=fix))
    rule = "with what is pinned and banned, neighbouring calls can still hand tensors to each other"
    fix = f"take away {' or '.join(one.what for one in helpful[:3])}" if helpful else "use a smaller grid"
    return InfeasiblePlan(refusal(where, "the pins and bans leave no choice of splits", rule, lines, fix))


def _over_memory(built: Built, limit: float, least: float, options: Options, freer: list[_Trial]) -> InfeasiblePlan:
    graph, state = built.graph, memory.optimizer_copies(options.optimizer)
    trained = sum(graph.values[item.value].nbytes for item in graph.parameters if item.kind == "parameter")
    ways = [f"raise --memory to {_bytes(least, up=True)}"]
    ways += [f"take away {one.what}" for one in freer if one.peak <= limit][:3]
    ways += ["use more ranks", "use a smaller batch"]
    ways += ["count an optimizer with less state (--optimizer sgd)"] if state else []
    asked = [*(["pins"] if options.pins else []), *(["bans"] if options.bans else [])]
    asked += [f"plan {options.plan!r}"] if options.plan != "auto" else []
    under = f" with its {' and '.join(asked)}" if asked else ""
    lines = [
        f"parameters, gradients and {options.optimizer} state are {_bytes(trained * (2 + state))} before any split"
    ]
    return InfeasiblePlan(
        refusal(
            f"memory limit {_bytes(limit)} per rank",
            f"{graph.name} on grid {built.grid}{under} needs at least {_bytes(least)} per rank, {_bytes(least - limit)} more",
            "parameters, gradients, optimizer state and saved activations of a step fit the limit at every time",
            lines + [_without(one, limit) for one in freer],
            ", or ".join(ways),
        )
    )


def _without(one: _Trial, limit: float) -> str:
    """What taking something away would change."""
    if one.peak <= limit:
        return f"without {one.what} a plan fits"
    return f"without {one.what} a plan needs {_bytes(one.peak)} per rank"


def _bytes(size: float, *, up: bool = False) -> str:
    """``1.25 GiB``; with `up` as an option's value, not less than `size`."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    unit, scale = next((one for one in units if size >= one[1]), ("B", 1))
    return f"{math.ceil(size / scale * 100) / 100:.2f}{unit}" if up else f"{size / scale:.2f} {unit}"
