"""What the command line of a program says about weights: where they are, and how their names differ from the model's."""

from __future__ import annotations

import argparse
from pathlib import Path

from autopar.runtime.session.parallel_module import Parallel


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="begin with a safetensors file, a folder of them, or a checkpoint"
    )
    for option, meaning in (
        ("--rename", "OLD=NEW: a name, or a beginning, of these weights"),
        ("--allow-missing", "parameters that the weights may lack"),
        ("--allow-unexpected", "weights that the model need not have"),
    ):
        parser.add_argument(option, action="append", default=[], help=meaning)


def problems(options: argparse.Namespace) -> list[str]:
    """What is wrong with them."""
    return [f"--rename {pair}: it is OLD=NEW" for pair in options.rename if "=" not in pair]


def load(parallel: Parallel, options: argparse.Namespace) -> list[str]:
    """Load the weights, if any are named; returns lines worth telling. Collective. Raises CheckpointError."""
    if options.weights is None:
        return []
    names = dict(pair.split("=", 1) for pair in options.rename)
    allowed = {"allow_missing": options.allow_missing, "allow_unexpected": options.allow_unexpected}
    loaded = parallel.load_weights(options.weights, names, **allowed)
    return [f"weights    {line}" for line in loaded.lines]
