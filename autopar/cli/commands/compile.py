"""``autopar compile model.py --grid 4x2 -o build``: from a model file to a folder with program and plan.

With ``--json`` one object: ``folder``; ``split``, per axis and word (batch, features, ...) the share of compute time;
``stages``, seconds of each; ``predicted_seconds`` and ``predicted_bytes`` of one step on one rank; ``single_seconds``, the same
step on one rank alone; ``gap``, the cost's relative distance from the proven bound; ``without_rule``, operators that run whole,
and ``without_rule_share``, their share of the compute; ``discovered``, the letters of operators that were found by running
them; ``grid``; ``placement``, null or of a graph that is divided: ``axis``, ``microbatches``, ``makespan``, ``bound``, ``gap``,
``cut_bytes``, ``imbalance``, ``segments``, ``positions``, ``beside``; ``grids``, those that were tried where it was ``auto``:
``grid``, ``seconds``, ``bytes``, ``gap``, ``refused``.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopar.cli.option_types import count, counts, results_only, seconds
from autopar.ir.units import bytes_text

if TYPE_CHECKING:
    from autopar.compiler import Compiled
    from autopar.planning.grid_search import Tried

NAME = "compile"
TEXT = "compile a model file for a grid of ranks"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how to plan; `explain` takes them from the plan instead."""
    shapes = "sizes or named axes of ranks: 2, 4x2, data=4,model=2; auto finds the best one of -n ranks"
    parser.add_argument("--grid", required=True, help=shapes)
    parser.add_argument("-n", dest="ranks", type=count(1), metavar="RANKS", help="ranks of a grid that is auto")
    parser.add_argument("--machine", default="cpu", help="a shipped profile (cpu, h100, ...) or a TOML file (cpu)")
    parser.add_argument("--memory", metavar="SIZE", help="limit per rank, as in 16GiB; the machine's without it")
    solvers = ["auto", "ilp", "search", "exhaustive"]
    parser.add_argument("--solver", default="auto", choices=solvers, help="how the plan is found (auto)")
    parser.add_argument(
        "--time-limit", type=seconds, default=60.0, metavar="SECONDS", help="for pricing and the solver (60)"
    )
    pin = (
        "fix what calls do, as in '*.c_fc: n@axis1': the pattern is over module paths, letters are the operator's; or where "
        "parameters lie, as in '*.c_fc.weight: shard 0@axis1'; an axis * is every axis; or on which position of a place axis "
        "calls stand, as in 'h.0.*: stage=0'; repeatable"
    )
    form = "'PATTERN: LETTER@AXIS'"
    parser.add_argument("--pin", action="append", default=[], metavar=form, help=pin)
    parser.add_argument("--ban", action="append", default=[], metavar=form, help="rule that out instead; repeatable")
    timed = "time every distinct call on this machine, at its exact local shapes, and plan by that"
    parser.add_argument("--measure", action="store_true", help=timed)
    twice = (
        "whether backward computes repeated blocks again, to keep less: auto where the memory limit asks for it (auto)"
    )
    parser.add_argument("--recompute", default="auto", choices=["auto", "always", "never"], help=twice)
    parts = (
        "into how many micro-batches a batch is divided, which run one after another and so hold less at once; auto takes as many "
        "as the memory limit asks for, or a place axis is best with (1; auto with a place axis)"
    )
    parser.add_argument("--microbatches", metavar="M|auto", help=parts)
    plans = ["auto", "data", "model", "domain", "megatron", "zero", "integrated"]
    fixed = "a fixed plan instead of the best one (auto); see `autopar compare`"
    parser.add_argument("--plan", default="auto", choices=plans, help=fixed)
    _add_place_axis(parser)
    drawn = "replicas along the grid's first axis draw micro-batches from a queue, as on --grid queue:2x2, and faster ones more"
    parser.add_argument("--queue", action="store_true", help=drawn)
    optimizers = ["sgd", "momentum", "adamw"]
    parser.add_argument(
        "--optimizer",
        default="adamw",
        choices=optimizers,
        help="what to plan for, and to train with where the model file has none of its own (adamw)",
    )
    parser.add_argument(
        "--loss", metavar="OUTPUT", help="the output to train on, where it is not a scalar or called loss"
    )
    also = "an output that the program returns beside the loss, as in logits; repeatable"
    parser.add_argument("--return", action="append", default=[], dest="outputs", metavar="OUTPUT", help=also)


def _add_place_axis(parser: argparse.ArgumentParser) -> None:
    """The options of grids with a place axis, as stage:2x2."""
    orders = ["auto", "gpipe", "1f1b", "interleaved", "zb"]
    order = "of a place axis: the order in which its positions work through segments and micro-batches (auto)"
    parser.add_argument("--schedule", default="auto", choices=orders, help=order)
    most = "most segments of a position of a place axis (1; 2 for interleaved)"
    parser.add_argument("--segments", type=count(1), metavar="N", help=most)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    given = "model.py, model.py:NAME for another attribute than `model`, or a folder of save_pretrained"
    parser.add_argument("model", help=given)
    add_options(parser)
    of_folder = "of a folder of save_pretrained: a model.py is written beside the program, for batches of so many {}"
    parser.add_argument("--batch", type=count(1), metavar="ROWS", help=of_folder.format("rows (8)"))
    parser.add_argument("--tokens", type=count(1), metavar="N", help=of_folder.format("tokens (128, or what it has)"))
    sizes = "rows that batches will have, as in 4,8,17: each gets a program of its own where one cannot serve all"
    parser.add_argument("--batch-sizes", type=counts, default=(), metavar="ROWS", help=sizes)
    parser.add_argument("-o", "--output", default="build", metavar="FOLDER", help="folder to write (build)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of progress")


def run(arguments: argparse.Namespace) -> int:
    """Compile and save; prints a line per stage."""
    from autopar.artifact import EDITED, check_writable, is_edited
    from autopar.cli.tables import say
    from autopar.progress import UNDER_WAY, logged

    output, stages, unasked = Path(arguments.output), dict[str, float](), logged()
    check_writable(output)

    def progress(stage: str, text: str, seconds: float) -> None:
        if stage not in UNDER_WAY.values():
            stages[stage] = stages.get(stage, 0.0) + seconds
        if not arguments.json:
            say(f"{stage:<10} {text:<52} {seconds:6.1f} s")
        else:
            unasked(stage, text, seconds)

    with results_only(arguments.json):
        arguments.model = _model_file(arguments, output)
        compiled = compiled_from(arguments, progress, arguments.batch_sizes)
    edited = is_edited(output)
    compiled.save(output)
    if arguments.json:
        print(json.dumps(_facts(compiled, output, stages)))
        return 0
    if edited:
        say(f"kept       the program that was edited by hand, as {output / EDITED}")
    _report(compiled, output)
    return 0


def _model_file(arguments: argparse.Namespace, output: Path) -> str:
    """The model file, which is written for a folder of Hugging Face. Raises ConfigError."""
    from autopar.errors import ConfigError, refusal
    from autopar.hugging_face.model_text import ExampleSizes, written

    folder = Path(arguments.model)
    given = [f"--{name}" for name in ("batch", "tokens") if getattr(arguments, name) is not None]
    if not folder.is_dir():
        if given:
            rule = "they are for a folder of save_pretrained; a model file has example_inputs of its own"
            raise ConfigError(refusal(arguments.model, f"given with {' and '.join(given)}", rule))
        return str(arguments.model)
    return str(written(folder, output, ExampleSizes(arguments.batch or 8, arguments.tokens)))


def compiled_from(arguments: argparse.Namespace, progress: Any, batch_sizes: Sequence[int] = ()) -> Compiled:  # noqa: ANN401
    """What the model and the options of a command line compile to."""
    from autopar.compiler import compile
    from autopar.ir.plan import ModelSource
    from autopar.model_file import load

    file = load(arguments.model)
    return compile(
        file.model,
        file.example_inputs,
        grid=arguments.grid,
        ranks=arguments.ranks,
        machine=arguments.machine,
        memory=arguments.memory,
        solver=arguments.solver,
        pin=arguments.pin,
        ban=arguments.ban,
        plan=arguments.plan,
        optimizer=arguments.optimizer,
        loss=arguments.loss,
        outputs=arguments.outputs,
        name=file.name,
        source=ModelSource(str(file.path), file.sha256, file.attribute),
        time_limit=arguments.time_limit,
        measure=arguments.measure,
        recompute=arguments.recompute,
        batch_sizes=batch_sizes,
        microbatches=arguments.microbatches,
        schedule=arguments.schedule,
        segments=arguments.segments,
        queue=arguments.queue,
        parts=file.takes_part,
        progress=progress,
    )


def _facts(compiled: Compiled, folder: Path, stages: dict[str, float]) -> dict[str, object]:
    from autopar.analysis.fallbacks import discovered, unruled, unruled_share
    from autopar.analysis.split_summary import shares
    from autopar.cli import placement_output

    plan = compiled.plan
    return {
        "folder": str(folder),
        "grid": plan.grid,
        "grids": [asdict(grid) for grid in compiled.grids],
        "split": shares(plan),
        "placement": placement_output.facts(plan.placement) if plan.placement else None,
        "stages": stages,
        "predicted_seconds": plan.predicted.seconds,
        "predicted_bytes": plan.predicted.bytes,
        "single_seconds": plan.single,
        "gap": plan.solver.gap,
        "without_rule": sorted({node.target for node in unruled(plan)}),
        "without_rule_share": unruled_share(plan),
        "discovered": sorted([rule.target, rule.letters] for rule in discovered(plan)),
    }


def _report(compiled: Compiled, folder: Path) -> None:
    from autopar.analysis.split_summary import sentence
    from autopar.cli.placement_output import beside
    from autopar.cli.placement_output import sentence as division
    from autopar.cli.tables import milliseconds, say, show_fallbacks

    plan, predicted, named = compiled.plan, compiled.plan.predicted, shlex.quote(str(folder))
    if compiled.grids:
        _show_grids(compiled.grids, plan.grid)
    gain = plan.single / predicted.seconds if predicted.seconds else 1.0
    say(f"split      {sentence(plan)}")
    if plan.placement is not None:
        say(f"divided    {division(plan.placement)}", f"beside     {beside(plan.placement)}")
    say(
        f"predicted  {milliseconds(predicted.seconds)} per step, {gain:.1f}x over 1 rank; {bytes_text(predicted.bytes)} per rank",
        f"wrote      {folder / 'program.py'}  {folder / 'plan.json'}",
        f"next       autopar inspect {named}; autopar run {named}",
    )
    if plan.batch.others:
        own = ", ".join(map(str, plan.batch.others))
        say(f"batches    programs of their own for {own} rows: {plan.batch.fixed or plan.batch.sizes}")
    show_fallbacks(plan)


def _show_grids(grids: Sequence[Tried], chosen: str) -> None:
    from autopar.cli.tables import milliseconds, show, table

    listing = table("grid", "step time", "memory", "gap", "")
    for grid in grids:
        if grid.refused:
            listing.add_row(grid.grid, "", "", "", grid.refused)
        else:
            mark = "chosen" if grid.grid == chosen else ""
            listing.add_row(grid.grid, milliseconds(grid.seconds), bytes_text(grid.bytes), f"{grid.gap:.2%}", mark)
    show(listing)
