"""``autopar run build``: starts the program on as many MPI ranks as its grid has."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from autopar.cli import launch_options
from autopar.cli.option_types import count
from autopar.files import check_file

_PLAN = """
import sys
from autopar.errors import AutoparError
from autopar.progress import logged
from autopar.recompile import planned_for
folder, ranks, target = sys.argv[1:]
try:
    planned_for(folder, int(ranks), logged()).save(target)
except AutoparError as error:
    sys.exit(f"autopar: {error}")
"""
NAME = "run"
TEXT = "train a compiled model on MPI ranks"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile` wrote")
    parser.add_argument("--steps", type=count(0), metavar="N", help="training steps (100; with --profile 20)")
    beside = "run the sequential model beside the first N steps (0)"
    parser.add_argument("--compare", type=count(0), default=0, metavar="N", help=beside)
    parser.add_argument(
        "--save", metavar="FILE", help="write the trained parameters as safetensors, under the original names"
    )
    evaluated = "every N steps, the loss on what evaluate() of the model file yields"
    parser.add_argument("--evaluate-every", type=count(1), metavar="N", help=evaluated)
    parser.add_argument("--metrics", metavar="FILE", help="write step, loss, seconds and evaluations as CSV")
    add_weights(parser, "begin with these")
    parser.add_argument("--checkpoint", metavar="DIR", help="save the state of the training there, and at the end")
    parser.add_argument("--every", type=count(1), metavar="N", help="steps from one checkpoint to the next (100)")
    parser.add_argument("--keep", type=count(1), metavar="K", help="how many checkpoints stay, the newest (3)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint, if there is one")
    after = "end after a step, with status 85 and in time for the checkpoint, so long after the start: 90s, 15m, 3h50m"
    parser.add_argument("--stop-after", metavar="TIME", help=after)
    again = "when ranks die, start again from the newest checkpoint, compiled for the ranks that are left"
    parser.add_argument("--elastic", action="store_true", help=again)
    parser.add_argument("--max-restarts", type=count(0), metavar="N", help="how often, with --elastic (3)")
    what = "of a step whose loss or gradients are not finite: end the run, leave the step out, or make it (stop)"
    parser.add_argument("--on-nonfinite", choices=["stop", "skip", "continue"], default="stop", help=what)
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="run in another precision than compiled")
    balance = "when boundaries move away from slow ranks: auto, off, or settings as threshold=0.05,horizon=500"
    balance += " (auto; with --profile off)"
    parser.add_argument("--balance", metavar="WHEN", help=balance)
    profiled = (
        "profile the last steps, for `autopar report`; boundaries stay as they are, with --balance in these steps only"
    )
    parser.add_argument("--profile", action="store_true", help=profiled)
    launch_options.add_hosts(parser, "autopar run build -- -hosts a:2,b:2")


def add_weights(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options about weights."""
    weights = f"{what}: a safetensors file, a folder as save_pretrained writes it, or a checkpoint"
    parser.add_argument("--weights", metavar="PATH", help=weights)
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="a name, or a beginning, of these weights"
    )
    missing = "parameters that the weights may lack (head.*)"
    parser.add_argument("--allow-missing", action="append", default=[], metavar="PATTERN", help=missing)
    unexpected = "weights that the model need not have ('*' any)"
    parser.add_argument("--allow-unexpected", action="append", default=[], metavar="PATTERN", help=unexpected)


def run(arguments: argparse.Namespace) -> int:
    """Launch, and return the job's exit status."""
    from autopar.artifact import PROGRAM, load
    from autopar.errors import ConfigError, refusal
    from autopar.ir.grid import GridShape
    from autopar.ir.profile import FILE, LEAST
    from autopar.jobs import elastic
    from autopar.jobs.durations import parse_duration
    from autopar.jobs.elastic import ElasticJob
    from autopar.jobs.launch import launch

    if arguments.stop_after:
        parse_duration(arguments.stop_after, "--stop-after")
    options = launch_options.options(arguments.hosts, arguments.mpiexec)
    if arguments.save:
        check_file("--save", Path(arguments.save), "parameters are saved as one file")
    if arguments.metrics:
        check_file("--metrics", Path(arguments.metrics), "metrics are one CSV file")
    saved = load(arguments.folder)
    _check_elastic(arguments, saved.plan.model.path)
    if arguments.profile:
        check_file("--profile", saved.folder / FILE, "a profile is written beside the program")
    if arguments.profile and arguments.steps is not None and arguments.steps < LEAST:
        rule = f"a profile needs {LEAST} steps or more: some to warm up, some with and some without it"
        raise ConfigError(refusal("--profile", f"with --steps {arguments.steps}", rule, fix=f"--steps {LEAST}"))
    steps = arguments.steps if arguments.steps is not None else 20 if arguments.profile else 100
    words, first = _words(arguments, steps)
    ranks, huge = GridShape.parse(saved.plan.grid).size, saved.plan.gives_back
    if not arguments.elastic:
        return launch(saved.folder / PROGRAM, ranks, [*words, *first], options=options, huge_pages=huge)
    most = 3 if arguments.max_restarts is None else arguments.max_restarts
    job = ElasticJob(saved.folder, ranks, words, first, options, Path(arguments.checkpoint), most, huge)
    return elastic.run(job, PROGRAM, lambda left: _planned(saved.folder, left))


def _words(arguments: argparse.Namespace, steps: int) -> tuple[list[str], list[str]]:
    """The command line of the program, and what of it only a job has that begins."""
    words = ["--steps", str(steps), "--seed", str(arguments.seed)]
    words += ["--save", arguments.save] if arguments.save else []
    words += ["--evaluate-every", str(arguments.evaluate_every)] if arguments.evaluate_every else []
    words += ["--metrics", arguments.metrics] if arguments.metrics else []
    words += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
    words += ["--every", str(arguments.every)] if arguments.every else []
    words += ["--keep", str(arguments.keep)] if arguments.keep else []
    words += ["--stop-after", arguments.stop_after] if arguments.stop_after else []
    words += ["--on-nonfinite", arguments.on_nonfinite] if arguments.on_nonfinite != "stop" else []
    words += ["--dtype", arguments.dtype] if arguments.dtype else []
    words += ["--profile"] if arguments.profile else []
    words += ["--balance", arguments.balance] if arguments.balance else []
    first = ["--compare", str(arguments.compare)] if arguments.compare else []
    first += ["--resume"] if arguments.resume else []
    return words, first + weight_words(arguments)


def _check_elastic(arguments: argparse.Namespace, model: str) -> None:
    """Raise ConfigError where a job could not be started again, before it starts. `model` is the path of the model file."""
    from autopar.errors import ConfigError, refusal

    problems = []
    if arguments.elastic:
        problems += [] if arguments.checkpoint else ["without --checkpoint DIR there is nothing to go on from"]
        problems += ["--profile measures one job on one grid"] if arguments.profile else []
        problems += [] if model else ["a live model was compiled: only a model file can be compiled for fewer ranks"]
    elif arguments.max_restarts is not None:
        problems += ["--max-restarts without --elastic"]
    if problems:
        rule = "a job is started again from a checkpoint, with its model file compiled for the ranks that are left"
        raise ConfigError(refusal("--elastic", "it cannot be", rule, problems))


def _planned(folder: Path, ranks: int) -> Path | None:
    """The model compiled for so many ranks, beside its program; by a process of its own, which loads torch. None if that fails."""
    target = folder / f"ranks-{ranks}"
    words = ["-P", "-c", _PLAN, str(folder), str(ranks), str(target)]
    return target if subprocess.run([sys.executable, *words], check=False).returncode == 0 else None


def weight_words(arguments: argparse.Namespace) -> list[str]:
    """The options about weights, of which a path that is not there is refused before the job starts."""
    from autopar.errors import ConfigError, refusal

    if arguments.weights is None:
        return []
    if not Path(arguments.weights).exists():
        rule = "weights are a safetensors file, a folder of them, or a checkpoint"
        raise ConfigError(refusal("--weights", f"there is no {arguments.weights}", rule))
    words = ["--weights", arguments.weights]
    for option, values in (
        ("--rename", arguments.rename),
        ("--allow-missing", arguments.allow_missing),
        ("--allow-unexpected", arguments.allow_unexpected),
    ):
        words += [f"{option}={value}" for value in values]
    return words
