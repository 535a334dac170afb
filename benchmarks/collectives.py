"""How long a collective takes, side by side in one run: autopar's transport, MPI's own, and gloo.

    python -m benchmarks.collectives                 2 and 4 ranks, 4 B to 64 MiB
    python -m benchmarks.collectives --json

Every rank holds one tensor of the given size: what is summed, what is scattered, what is gathered at the end, what is
exchanged. All contenders run in the same processes and take turns, call by call in blocks, round after round; a
contender's time is the median over rounds of the block's mean, on the slowest rank. `copy` is torch's plain copy of as many
bytes, on all ranks at once: no all-reduce in place on two ranks can be faster, since each reads and writes as much.

All are given torch tensors in memory that has been written to; MPI gets them as NumPy arrays, the fastest way it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from autopar.jobs.launch import command as mpi_command
from benchmarks.jobs import answer_of
from benchmarks.options import add_json, add_ranks, described

WORKER = "benchmarks.workers.collectives"
SIZES = tuple(4**power for power in range(1, 14))  # 4 B to 64 MiB
Times = dict[str, float]  # seconds by contender


def measure(ranks: int, sizes: tuple[int, ...], rounds: int) -> dict[str, dict[int, Times]]:
    """Seconds per collective, size and contender, on `ranks` ranks of this machine."""
    request = json.dumps({"sizes": sizes, "rounds": rounds})
    words = mpi_command(WORKER, ranks, [request])
    answer = answer_of(words, "the job", threads=1)
    return {kind: {int(size): times for size, times in rows.items()} for kind, rows in answer.items()}


def table(kind: str, ranks: int, rows: Mapping[int, Times]) -> Table:
    shown = Table("bytes", title=f"{kind}, {ranks} ranks, microseconds", title_justify="left")
    names = list(next(iter(rows.values())))
    for name in [*names, "of MPI", "of gloo", *(["of copy"] if "autopar in place" in names else [])]:
        shown.add_column(name, justify="right")
    for size, times in rows.items():
        ours = times.get("autopar in place", times["autopar"])
        ratios = [min(ours, times["autopar"]) / times["MPI"], ours / times["gloo"]]
        if "autopar in place" in names:
            ratios.append(ours / times["copy"])
        shown.add_row(
            f"{size:,}", *(f"{times[name] * 1e6:,.1f}" for name in names), *(f"{ratio:.2f}" for ratio in ratios)
        )
    return shown


def main() -> None:
    parser = described(__doc__)
    add_ranks(parser, (2, 4))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="bytes (4 to 64 Mi, by fours)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every contender (9)")
    add_json(parser)
    options = parser.parse_args()
    console = Console(stderr=options.json)
    records = []
    for ranks in options.ranks:
        for kind, rows in measure(ranks, tuple(options.sizes), options.rounds).items():
            records.append({"collective": kind, "ranks": ranks, "seconds": rows})
            if not options.json:
                console.print(table(kind, ranks, rows))
    if options.json:
        print(json.dumps(records, indent=1))
    else:
        console.print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f}", highlight=False)


if __name__ == "__main__":
    main()
