"""A queue of micro-batches beside a static division, while a rank is stalled for 50 ms at random.

    python -m benchmarks.queue [--who one|any] [--json]                   three minutes on two idle cores

GPT-2 (`short_gpt2`, with four times its batch) on two ranks, each held to a core of its own. A stall is a SIGSTOP for 50 ms, by a
process outside, at times drawn from an exponential distribution: too quick for boundaries to be moved. `one`: always of rank 1;
`any`: of a rank that is drawn each time. Three ways to divide a batch take turns:

    queue     --grid queue:2, the replicas draw micro-batches
    halves    the same program, each replica computes its half of the micro-batches
    batch     --grid 2, every rank computes half of the batch at once

*Load* is what a rank computes in a step, and is stalled meanwhile: its wall seconds less those inside communication. No division
makes a step shorter than the mean load of the ranks. The bar: with the queue a step takes at most 1.1 times the mean load. Beside
it the gradients of a step under stalls are compared with those of the model itself, in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autopar.jobs.launch import command
from benchmarks.options import add_json, add_small, add_turns, described

WORKER = "benchmarks.queue.worker"
STALLING = "stalling"
"""A file that the ranks make where stalls are to begin, and remove where they are to end."""
BAR = 1.1
EXACT = 1e-10


@contextmanager
def stalls(folder: Path, ranks: int, options: argparse.Namespace) -> Iterator[list[int]]:
    """Stall ranks whose process numbers stand in the folder, for as long as there is a file that says so; how often, so far."""
    ended, draw, count = threading.Event(), random.Random(options.seed), [0]

    def work() -> None:
        while not ended.wait(0.001):
            if not (folder / STALLING).exists():
                continue
            time.sleep(draw.expovariate(1.0 / options.every))
            rank = draw.randrange(ranks) if options.who == "any" else ranks - 1
            number = int((folder / f"pid_{rank}").read_text())
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGSTOP)
                time.sleep(options.stall)
                os.kill(number, signal.SIGCONT)
                count[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        ended.set()
        thread.join()


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The medians of all ways, with and without stalls, as the worker has written them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        words = [
            str(folder),
            str(options.rounds),
            str(options.steps),
            str(options.microbatches),
            str(int(options.small)),
        ]
        line = command(WORKER, 2, words)
        with stalls(folder, 2, options) as count:
            subprocess.run(line, check=True, stdout=sys.stderr, env=os.environ | {"OMP_NUM_THREADS": "1"})
        results: dict[str, dict[str, float]] = json.loads((folder / "results.json").read_text())
        return results | {"stalls": {"count": float(count[0])}}


def show(results: dict[str, dict[str, float]], options: argparse.Namespace, log: Console) -> None:
    """A table, and whether the bars are met."""
    whom = "rank 1" if options.who == "one" else "any rank"
    title = f"{whom} stalled {options.stall * 1e3:.0f} ms every {options.every * 1e3:.0f} ms at random"
    table = Table(
        "ms per step", "undisturbed", "stalled", "mean load", "of the mean load", title=title, title_justify="left"
    )
    for name in ("queue", "halves", "batch"):
        row = results[name]
        numbers = [f"{row[key] * 1e3:.1f}" for key in ("quiet", "stalled", "load")]
        table.add_row(name, *numbers, f"{row['stalled'] / row['load']:.3f}")
    log.print(table)
    ratio, apart = results["queue"]["stalled"] / results["queue"]["load"], results["check"]["difference"]
    log.print(
        f"{results['stalls']['count']:.0f} stalls; drawn by rank 0 in a stalled step: {results['queue']['drawn']:.0%} in the mean"
    )
    log.print(f"{'met' if ratio <= BAR else 'MISSED'}: {ratio:.3f} of the mean load, {BAR} allowed")
    log.print(f"{'met' if apart <= EXACT else 'MISSED'}: gradients differ by {apart:.1e} (float64), {EXACT} allowed")


def main() -> None:
    parser = described(__doc__)
    add_turns(parser, 3, "the three ways", steps=5)
    parser.add_argument("--who", choices=("one", "any"), default="one", help="is stalled: rank 1, or any (one)")
    parser.add_argument("--stall", type=float, default=0.05, help="seconds of a stall (0.05)")
    parser.add_argument("--every", type=float, default=0.15, help="mean seconds from one stall to the next (0.15)")
    parser.add_argument("--microbatches", type=int, default=32, help="of a batch (32)")
    parser.add_argument("--seed", type=int, default=0, help="of the times of stalls (0)")
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    results = measure(options)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        show(results, options, Console(highlight=False, soft_wrap=True))
    missed = results["queue"]["stalled"] > BAR * results["queue"]["load"]
    if results["check"]["difference"] > EXACT or (missed and not options.small):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
