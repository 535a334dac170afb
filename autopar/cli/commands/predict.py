"""``autopar predict build inputs.npy -o outputs.npy``: the outputs of a compiled model, part by part on the ranks of its grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from autopar.cli import launch_options
from autopar.cli.commands.run import add_weights, weight_words

NAME = "predict"
TEXT = "run a compiled model forward over inputs from files, and write its outputs"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", help="what `autopar compile --return OUTPUT` wrote")
    inputs = "a .npy, .npz or .safetensors file, or a folder of NAME.npy; what inputs() of the model file yields, if left out"
    parser.add_argument("inputs", nargs="?", help=inputs)
    outputs = "a .npy or .safetensors file, or a folder of NAME.npy, to write"
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help=outputs)
    add_weights(parser, "the parameters")
    checkpoint = "the parameters: a checkpoint, or the newest one in a folder of them"
    parser.add_argument("--checkpoint", metavar="DIR", help=checkpoint)
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters, where none are given (0)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="compute in another precision than compiled")
    launch_options.add_hosts(parser, "autopar predict build x.npy -o y.npy -- -hosts a:2,b:2")


def run(arguments: argparse.Namespace) -> int:
    """Launch, and return the job's exit status."""
    from autopar.artifact import load
    from autopar.errors import ConfigError, refusal
    from autopar.files import check_file
    from autopar.ir.grid import GridShape
    from autopar.jobs.launch import launch

    options = launch_options.options(arguments.hosts, arguments.mpiexec)
    saved = load(arguments.folder)
    if arguments.weights and arguments.checkpoint:
        rule = "the parameters come from one place"
        raise ConfigError(refusal("command line", "--weights and --checkpoint", rule, fix="leave one of them out"))
    for option, path in (("inputs", arguments.inputs), ("--checkpoint", arguments.checkpoint)):
        if path is not None and not Path(path).exists():
            raise ConfigError(refusal(option, f"there is no {path}", "it is read when the job starts"))
    output = Path(arguments.output)
    if output.suffix:
        check_file("--output", output, "outputs of this name are one file")
    words = [str(saved.folder), *([arguments.inputs] if arguments.inputs else []), "--output", arguments.output]
    words += weight_words(arguments)
    words += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
    words += ["--seed", str(arguments.seed), *(["--dtype", arguments.dtype] if arguments.dtype else [])]
    ranks, huge = GridShape.parse(saved.plan.grid).size, saved.plan.gives_back
    return launch("autopar.runtime.prediction.predict", ranks, words, options=options, huge_pages=huge)
