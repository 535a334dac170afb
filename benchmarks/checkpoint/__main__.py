"""Saving and loading a checkpoint, beside torch.save and torch.distributed.checkpoint; memory; and steps beside a save.

    python -m benchmarks.checkpoint [--ranks 2 4] [--rounds 5] [--json]           a minute for each number of ranks

An MLP of 4 x (2560 x 2560) in float32 with AdamW's state, 315 MB, cut over the ranks. All ways take turns in the same processes,
and each is timed from when all ranks begin until all have ended; nothing is left for the disk to write before:

    autopar               parallel.save and parallel.load: flushed, hashed (sha256), renamed; loading verifies every file
    torch.save flushed    torch.save of every rank's own tensors, and fsync; torch.load, then load_state_dict of model and optimizer
    torch.save            the same without fsync; torch.load alone, into memory of its own
    dcp                   torch.distributed.checkpoint over gloo: every rank's own tensors; files are flushed; loaded into these

Files were just written when they are read, so reading is from memory. Then the checkpoint is loaded on one rank more than has
written it: how far the resident memory of every rank rises, beside its own shards. And steps while a save is under way are compared
with steps without, with the seconds for which beginning a save holds a step up.
"""

from __future__ import annotations

import json
import tempfile
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from autopar.jobs.launch import command
from benchmarks.jobs import answer_of
from benchmarks.options import add_json, add_ranks, add_small, described

WORKER = "benchmarks.checkpoint.worker"


def measure(ranks: int, rounds: int, small: bool, place: str | None) -> dict[str, Any]:
    """Everything on so many ranks, in a folder of its own below `place`."""
    size = "small" if small else "full"
    with tempfile.TemporaryDirectory(dir=place) as folder:
        words = ["all", size, str(rounds), folder]
        found: dict[str, Any] = answer_of(command(WORKER, ranks, words), f"{ranks} ranks", threads=1)
        words = ["elsewhere", size, str(ranks + 1), folder]
        elsewhere = answer_of(command(WORKER, ranks + 1, words), f"loading on {ranks + 1} ranks", threads=1)
    return {"ranks": ranks, **found, "elsewhere": elsewhere}


def speeds(found: dict[str, Any], what: str) -> dict[str, float]:
    """GB/s of every way, the median of its turns."""
    return {way: found["bytes"] / 1e9 / median(times) for way, times in found[what].items()}


def show(found: dict[str, Any], log: Console) -> None:
    """GB/s, memory and steps of one number of ranks."""
    saves, loads = speeds(found, "saves"), speeds(found, "loads")
    table = Table(f"{found['ranks']} ranks, {found['bytes'] / 1e6:.0f} MB: GB/s", "save", "load")
    for way in saves:
        table.add_row(way, f"{saves[way]:.2f}", f"{loads[way]:.2f}")
    log.print(table)
    for rank, one in enumerate(found["elsewhere"]):
        rise, state, shards = (one[key] / 1e6 for key in ("rise", "state", "shards"))
        where = f"loaded on {found['ranks'] + 1}, rank {rank}"
        log.print(f"  {where}: {rise:.1f} MB more, its state is {state:.1f}, all it holds {shards:.1f}")
    beside = found["beside"]
    longer, held = beside["during"] / beside["quiet"] - 1, beside["copy"]
    log.print(
        f"  a step takes {beside['quiet'] * 1e3:.0f} ms, {beside['during'] * 1e3:.0f} ms beside a save ({longer:+.1%}; means "
        f"{beside['mean_during'] / beside['mean_quiet'] - 1:+.1%}), which lasts {beside['save']:.1f} s; "
        f"beginning it takes {held * 1e3:.0f} ms, the first time {beside['first_copy'] * 1e3:.0f} ms"
    )


def main() -> None:
    parser = described(__doc__)
    add_ranks(parser, (2, 4))
    parser.add_argument("--rounds", type=int, default=5, help="turns of all ways (5)")
    parser.add_argument("--folder", metavar="DIR", help="where checkpoints go (the system's for what is temporary)")
    add_small(parser)
    add_json(parser)
    options = parser.parse_args()
    log, every = Console(highlight=False, soft_wrap=True), []
    for ranks in options.ranks:
        every.append(measure(ranks, options.rounds, options.small, options.folder))
        if not options.json:
            show(every[-1], log)
    if options.json:
        print(json.dumps(every))


if __name__ == "__main__":
    main()
