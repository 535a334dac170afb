"""How fast products of matrices are on a core beside a competitor: ``python -m benchmarks.workers.beside CORE``."""

from __future__ import annotations

import os
import sys
import time

import torch

from benchmarks.competitor import Competitor, make_way

_ROWS, _SECONDS = 512, 1.5


def main(core: str) -> None:
    """Print the speed over that without a competitor, and the share of the core that it had."""
    torch.set_num_threads(1)
    make_way()
    os.sched_setaffinity(0, {int(core)})
    a = torch.ones(_ROWS, _ROWS)
    products(a)
    alone = products(a)
    competitor = Competitor(int(core))
    beside = products(a)
    print(beside / alone, competitor.end())


def products(a: torch.Tensor) -> float:
    """How many there are in a second."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + _SECONDS:
        a @ a
        count += 1
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1])
