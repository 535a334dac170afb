"""What the user asks of a compilation, as one record: made of keywords once, checked before anything is captured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autopar.costmodel.memory import optimizer_copies
from autopar.errors import ConfigError, nearest, refusal
from autopar.ir import machine as machines
from autopar.ir.grid import GridShape
from autopar.ir.machine import Machine
from autopar.ir.plan import Options
from autopar.partitioner.solvers.solve import check_method
from autopar.planning import baselines, grid_search, pins
from autopar.planning.microbatch_search import AUTO
from autopar.planning.place_axis import schedule_options

RECOMPUTE = ("auto", "always", "never")


def options_of(
    memory: str | float | None,
    solver: str,
    optimizer: str,
    pin: Sequence[str],
    ban: Sequence[str],
    loss: str | None,
    time_limit: float,
    outputs: str | Sequence[str],
    measure: bool,
    recompute: str,
    plan: str,
    batch_sizes: Sequence[int],
    microbatches: int | str | None = None,
    schedule: str = schedule_options.AUTO,
    segments: int | None = None,
    parts: bool = False,
) -> Options:
    """The record of the keywords of `autopar.compile`. Raises ConfigError for a size or a count that is none."""
    return Options(
        memory=None if memory is None else bytes_of(memory),
        solver=solver,
        optimizer=optimizer,
        pins=tuple(pin),
        bans=tuple(ban),
        loss=loss,
        time_limit=time_limit,
        outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs),
        measure=measure,
        recompute=recompute,
        plan=plan,
        batch_sizes=_row_counts(batch_sizes),
        microbatches="" if microbatches is None else microbatches_of(microbatches),
        schedule=schedule,
        segments=segments,
        parts=parts,
    )


def bytes_of(memory: str | float) -> float:
    """A limit in bytes, from a number or a text such as ``"16GiB"``. Raises ConfigError."""
    return float(machines.parse_bytes(memory))


def microbatches_of(given: int | str) -> str:
    """A number of micro-batches, 1 or more, as text, or ``"auto"``. Raises ConfigError."""
    text = str(given)
    if text != AUTO and not (text.isdecimal() and int(text) > 0):
        rule = "a batch is divided into a whole number of micro-batches, 1 or more, or into as many as the memory limit asks for"
        raise ConfigError(refusal("microbatches", f"{given!r}", rule, fix="write e.g. 4, or auto"))
    return text if text == AUTO else str(int(text))


def _row_counts(sizes: Sequence[int]) -> tuple[int, ...]:
    strange = [f"{rows!r}" for rows in sizes if not isinstance(rows, int) or rows < 1]
    if strange:
        raise ConfigError(refusal("batch sizes", ", ".join(strange), "a batch has a whole number of rows, 1 or more"))
    return tuple(sorted(set(sizes)))


def _shape(grid: str | GridShape) -> GridShape:
    return grid if isinstance(grid, GridShape) else GridShape.parse(grid)


def check(options: Options, grid: str | GridShape, ranks: int | None, machine: Machine) -> None:
    """Raise ConfigError for what would only be found out after the capture."""
    grid_search.check(grid, ranks)
    schedule_options.check(options, None if grid == grid_search.AUTO else _shape(grid))
    if grid != grid_search.AUTO:
        shape = _shape(grid)
        machines.check_ranks(machine, shape)
        pins.of(options, shape)
    check_method(options.solver)
    baselines.check(options.plan)
    optimizer_copies(options.optimizer)
    if options.recompute not in RECOMPUTE:
        fault = f"{options.recompute!r} is unknown{nearest(options.recompute, RECOMPUTE)}"
        raise ConfigError(refusal("recompute", fault, "repeated blocks are computed again by one of those", RECOMPUTE))
    if not 0 < options.time_limit < math.inf:
        raise ConfigError(
            refusal("time limit", f"{options.time_limit:g} s", "a time limit is a number of seconds above 0")
        )
