"""Random models, compiled under drawn strategies, beside the sequential model: loss and gradients in float64.

    python -m benchmarks.compatibility.random_programs --count 3000 --seed 1

`count` programs are tried, `--strategies` to each model and grid (`autopar.proof.random_model` draws the models); every second
model has a batch, and a program for any number of rows. What differs, or fails, is printed with the model, the program and its
seed, and ends the command with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from autopar.proof import GRIDS
from autopar.proof.random_model import drawn_model
from autopar.proof.random_programs import Case

CUTS = 3  # of every program
EVERY = 60.0  # seconds between two lines that say how far it is


def main(arguments: Sequence[str] | None = None) -> int:
    """Try programs until `count` have been tried; the exit status."""
    parser = argparse.ArgumentParser(description="Random models under drawn strategies, beside the sequential model.")
    parser.add_argument("--count", type=int, default=3000, help="programs")
    parser.add_argument("--seed", type=int, default=1, help="of the first model; the next ones count on")
    parser.add_argument("--strategies", type=int, default=10, help="drawn for each model on one grid")
    parser.add_argument(
        "-o", "--output", type=Path, help="a folder for what fails, a file each; without, it is printed"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tried, seed, failed = 0, options.seed, 0
    printed = began = time.perf_counter()
    while tried < options.count:
        strategies = min(options.strategies, options.count - tried)
        for what, text in of_seed(seed, strategies):
            failed += 1
            _tell(seed, what, text, options.output)
        tried, seed = tried + strategies, seed + 1
        if time.perf_counter() - printed > EVERY:
            printed = time.perf_counter()
            print(
                f"{tried} programs of {seed - options.seed} models, {failed} failed, {printed - began:.0f} s",
                flush=True,
            )
    print(f"{tried} programs of {seed - options.seed} models on grids {', '.join(GRIDS)}: {failed} failed")
    return 1 if failed else 0


def of_seed(seed: int, strategies: int) -> Iterator[tuple[str, str]]:
    """What fails of the model of this seed on one of the grids: a line, and all there is to know."""
    model = drawn_model(seed, batched=seed % 2 == 1)
    try:
        (case,) = Case.of(model, (GRIDS[seed % len(GRIDS)],))
    except Exception as error:  # whatever it is: it is what we look for
        yield f"not compiled: {type(error).__name__}", f"{traceback.format_exc()}\n{model.text}"
        return
    draw = random.Random(seed)
    for number in range(strategies):
        try:
            wrong = case.differs(draw, CUTS)
        except Exception as error:
            yield f"grid {case.grid}, strategy {number}: {type(error).__name__}", traceback.format_exc()
        else:
            if wrong:
                yield f"grid {case.grid}, strategy {number}: {wrong.splitlines()[0]}", wrong


def _tell(seed: int, what: str, text: str, folder: Path | None) -> None:
    print(f"seed {seed}, {what}", flush=True)
    if folder is None:
        print(text, flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"seed_{seed}.txt").open("a") as file:
        file.write(f"{what}\n{text}\n")


if __name__ == "__main__":
    sys.exit(main())
