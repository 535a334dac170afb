"""``autopar simulate build``: what a step would cost, without running it: in time, with slow ranks, on other numbers of ranks.

Without ``--grid`` and ``--ranks`` the plan as it was compiled, one step in time. With them the model is planned anew for
every grid, and for every number of ranks on several grids, of which the best counts; see `autopar.analysis.scaling`.

With ``--json`` one object: ``model``, ``machine`` and ``noise`` (``slow``, ``jitter``, ``seed``, ``steps``). Then, for a step:
``grid``, ``ranks``, ``step_seconds`` (the mean), ``even_seconds`` (no rank slow, no jitter), ``steps`` (seconds of each),
``critical`` (the rank that the others wait for), per step on that rank ``compute_seconds`` (update included),
``communication_seconds``, ``exposed_seconds`` (gradient sums that do not hide), ``waiting_seconds``; ``sums_seconds`` (all
gradient sums) and ``most_waiting_seconds`` (of any rank); with ``--replan`` also ``compiled_seconds`` (the step as compiled,
with the slow ranks) and ``cuts`` of the new plan, fractions by axis, unless there is ``--machine``. For a step of a graph that
is divided over a place axis: ``grid``, ``ranks``, ``step_seconds``, ``positions`` (``position``, ``segments``, ``work`` in
seconds, share ``idle``, ``bytes``) and ``actions``, per position a list of ``action`` (``F1.0``: forward of segment 1,
micro-batch 0), ``start``, ``end``. Otherwise ``points``, a list of objects with ``scaling``, ``ranks``, ``rows`` (0: as
compiled), ``grid``, ``split``, ``step_seconds``, ``speedup``, ``efficiency``, ``communication_share``, ``bytes`` and ``why``
(why there is no plan; the others are then null).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.cli.option_types import count, results_only
from autopar.errors import ConfigError, refusal
from autopar.files import check_file, write_file

if TYPE_CHECKING:
    from autopar.analysis.scaling import Noise, Point, PointRequest
    from autopar.ir.grid import GridShape
    from autopar.ir.machine import Machine
    from autopar.ir.pipeline.placement_plan import PlacementPlan
    from autopar.ir.plan import Plan

NAME = "simulate"
TEXT = "what a step would cost, in time and on other numbers of ranks, without running it"
_MOST = 2**20
_RULES = {"--trace": "a trace is a file of its own", "--svg": "a picture is a file of its own"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote")
    grid = "plan the model anew for this grid, as in 4x2; repeatable"
    parser.add_argument("--grid", action="append", default=[], metavar="GRID", help=grid)
    ranks = "plan it for these numbers of ranks, each on the best of several grids: 1,2,4 or 1,2,...,4096"
    parser.add_argument("--ranks", type=ranks_of, default=(), metavar="LIST", help=ranks)
    scaling = "same batch on all, or as many times the batch as there are ranks (strong)"
    parser.add_argument("--scaling", choices=("strong", "weak", "both"), default="strong", help=scaling)
    batch = "rows of the batch instead of those compiled for; of each rank where scaling is weak"
    parser.add_argument("--batch", type=count(1), metavar="ROWS", help=batch)
    parser.add_argument("--machine", help="a shipped profile (cpu, h100, ...) or a TOML file instead of the plan's")
    slow = "a rank whose compute takes so many times as long, as in 3:1.5; repeatable"
    parser.add_argument("--slow", type=slow_of, action="append", default=[], metavar="RANK:FACTOR", help=slow)
    again = "plan anew for the slow ranks, as if the machine profile said so, and show that step"
    parser.add_argument("--replan", action="store_true", help=again)
    jitter = "spread of compute from call to call and rank to rank, as in 0.05 for 5%% (0)"
    parser.add_argument("--jitter", type=jitter_of, default=0.0, metavar="SHARE", help=jitter)
    parser.add_argument("--seed", type=count(0), default=0, help="of the jitter (0)")
    parser.add_argument(
        "--steps", type=count(1), default=1, metavar="N", help="steps to simulate, one after another (1)"
    )
    trace = "write the events of one step for a trace viewer (Perfetto, chrome://tracing)"
    parser.add_argument("--trace", metavar="FILE", help=trace)
    parser.add_argument("--svg", metavar="FILE", help="draw the scaling curves")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def ranks_of(text: str) -> tuple[int, ...]:
    """``1,2,4`` or ``1,2,...,4096`` (each so many times the one before) as numbers."""
    words = [word.strip() for word in text.split(",")]
    if len(words) == 4 and words[2] == "..." and all(word.isdigit() for word in (words[0], words[1], words[3])):
        first, second, last = (int(words[i]) for i in (0, 1, 3))
        if 0 < first < second <= last <= _MOST and second % first == 0:
            times = second // first
            return tuple(first * times**i for i in range(21) if first * times**i <= last)
    elif all(word.isdigit() and 0 < int(word) <= _MOST for word in words) and len(set(words)) == len(words):
        return tuple(map(int, words))
    raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers of ranks, as in 1,2,4 or 1,2,...,{_MOST}")


def slow_of(text: str) -> tuple[int, float]:
    """``3:1.5`` or ``3=1.5`` as rank and factor."""
    rank, _, factor = text.replace("=", ":").partition(":")
    value = _number(factor)
    if not rank.isdigit() or not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rank and a factor above 0, as in 3:1.5")
    return int(rank), value


def jitter_of(text: str) -> float:
    """A share of at least 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def run(arguments: argparse.Namespace) -> int:
    """Simulate, and print a table or JSON."""
    from autopar.artifact import load
    from autopar.ir import machine as machines
    from autopar.ir.grid import GridShape

    grids = tuple(map(GridShape.parse, arguments.grid))
    _check_files(arguments, grids)
    plan = load(arguments.folder).plan
    machine = machines.load(arguments.machine) if arguments.machine else plan.machine
    given = noise = _noise(arguments)
    if arguments.replan:
        noise, machine = _known_slow(noise, machine, plan, grids, arguments.ranks)
    _check_noise(noise, grids if grids or arguments.ranks else [GridShape.parse(plan.grid)])
    if not grids and not arguments.ranks:
        _step(arguments, plan, machine, noise, given)
    else:
        _scaling(arguments, plan, machine, noise, grids)
    return 0


def _noise(arguments: argparse.Namespace) -> Noise:
    from autopar.analysis.scaling import Noise

    ranks = [rank for rank, _ in arguments.slow]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    if twice:
        rule, fix = "every rank has one factor", "give each rank once"
        raise ConfigError(refusal("--slow", "a rank is named twice", rule, [f"rank {rank}" for rank in twice], fix))
    return Noise(dict(arguments.slow), arguments.jitter, arguments.seed, arguments.steps)


def _known_slow(
    noise: Noise, machine: Machine, plan: Plan, grids: Sequence[GridShape], ranks: Sequence[int]
) -> tuple[Noise, Machine]:
    """The machine with the slow ranks in its profile, and what else disturbs them. Raises ConfigError where none is slow."""
    from dataclasses import replace

    from autopar.analysis.scaling import check_slow
    from autopar.ir.machine import slowed

    if not noise.slow:
        rule, fix = "plans are made anew for ranks that are slow", "add e.g. --slow 1:2"
        raise ConfigError(refusal("--replan", "given without --slow", rule, fix=fix))
    sizes = [*ranks, *(grid.size for grid in grids)] or [plan.shape.size]
    check_slow(noise.slow, sizes)
    return replace(noise, slow={}), slowed(machine, noise.slow, max(sizes))


def _check_files(arguments: argparse.Namespace, grids: Sequence[GridShape]) -> None:
    """What --trace, --svg, --batch and --scaling need, and whether the files can be written."""
    curves = bool(grids or arguments.ranks)
    if arguments.trace and curves:
        fix = f"compile it for one grid, and trace that: autopar simulate {arguments.folder} --trace {arguments.trace}"
        raise ConfigError(
            refusal("--trace", "given with --grid or --ranks", "a trace is of the compiled plan", fix=fix)
        )
    needs = [f"--{name}" for name in ("svg", "batch") if getattr(arguments, name)]
    needs += ["--scaling"] if arguments.scaling != "strong" else []
    if needs and not curves:
        rule, fix = "a curve needs numbers of ranks", "add e.g. --ranks 1,2,4,8"
        raise ConfigError(refusal(", ".join(needs), "given without --grid or --ranks", rule, fix=fix))
    for option, name in (("--trace", arguments.trace), ("--svg", arguments.svg)):
        if name:
            check_file(option, Path(name), _RULES[option])


def _step(arguments: argparse.Namespace, plan: Plan, machine: Machine, noise: Noise, given: Noise) -> None:
    """A step of the plan under `noise`. Where that is not what was `given`, slow ranks are in the machine, and planned for."""
    from dataclasses import replace

    from autopar.analysis.scaling import Noise, check_slow
    from autopar.cli import simulate_output
    from autopar.ir import machine as machines
    from autopar.ir.grid import GridShape
    from autopar.recompile import recompile

    grid = GridShape.parse(plan.grid)
    machines.check_ranks(machine, grid)
    check_slow(noise.slow, [grid.size])
    comparable = given != noise and plan.placement is None and not arguments.machine
    before = given.run(plan).seconds if comparable else None
    if machine != plan.machine:
        memory = "machine" if arguments.machine else None
        with results_only(arguments.json):
            plan = recompile(arguments.folder).replan(machine=machine, memory=memory, measure=False).plan
    if plan.placement is not None:
        _divided_step(arguments, plan, plan.placement)
        return
    timeline, even = noise.run(plan), Noise({}).run(plan).seconds
    watched = sorted({0, timeline.critical, *noise.slow})[:16]
    events = replace(noise, steps=1).run(plan, watched).events
    if arguments.trace:
        from autopar.analysis import chrome_trace as trace

        trace.write(Path(arguments.trace), [(f"predicted, rank {rank}", events[rank]) for rank in watched])
    if arguments.json:
        facts = simulate_output.step_facts(plan, noise, timeline, even)
        print(json.dumps(facts | ({} if before is None else {"compiled_seconds": before, "cuts": dict(plan.cuts)})))
    else:
        simulate_output.show_step(plan, noise, timeline, even, events)
        if before is not None:
            simulate_output.say_replanned(plan, before, timeline.seconds)


def _divided_step(arguments: argparse.Namespace, plan: Plan, placement: PlacementPlan) -> None:
    """A step of a graph that is divided over positions."""
    from autopar.cli import placement_output

    if arguments.trace:
        from autopar.analysis import chrome_trace, placement_timeline

        chrome_trace.write(Path(arguments.trace), placement_timeline.all_events(placement))
    if arguments.json:
        print(json.dumps(placement_output.step_facts(plan, placement)))
    else:
        placement_output.show_positions(placement)


def _check_noise(noise: Noise, grids: Sequence[GridShape]) -> None:
    """Raise ConfigError for slow ranks and jitter on a grid with a place axis."""
    divided = [f"grid {grid}" for grid in grids if grid.place is not None]
    if divided and not noise.quiet:
        rule = "slow ranks and jitter are simulated where every rank computes the whole graph"
        fix = "leave them out, or name a grid without a place axis, as --grid 2x2"
        raise ConfigError(refusal("--slow, --jitter", "the graph is divided over a place axis", rule, divided, fix))


def _scaling(
    arguments: argparse.Namespace, plan: Plan, machine: Machine, noise: Noise, grids: Sequence[GridShape]
) -> None:
    from autopar.analysis import scaling, scaling_plot
    from autopar.cli import simulate_output
    from autopar.recompile import recompile

    kinds = ("strong", "weak") if arguments.scaling == "both" else (arguments.scaling,)
    if "weak" in kinds or arguments.batch:
        scaling.check_rows(plan, arguments.folder)
    points: list[PointRequest] = list(
        scaling.requested_points(arguments.ranks, grids, kinds, arguments.batch, plan, machine)
    )
    scaling.check(points, machine, noise.slow)

    def on_point(point: Point, tried: int, seconds: float) -> None:
        if not arguments.json:
            simulate_output.say_point(point, tried, seconds)

    with results_only(arguments.json):
        curve = scaling.curve(recompile(arguments.folder), points, machine, noise, on_point)
    if arguments.svg:
        title = f"{plan.name} on {machine.name}, predicted"
        write_file("--svg", Path(arguments.svg), scaling_plot.svg(title, curve), _RULES["--svg"])
    if arguments.json:
        print(json.dumps(simulate_output.curve_facts(plan, machine, noise, curve)))
    else:
        simulate_output.show_curve(plan, machine, noise, curve)
