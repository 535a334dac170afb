"""One rank of `benchmarks.collectives`: times every collective of every contender, and prints the seconds as JSON on rank 0."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as gloo
from mpi4py import MPI
from torch import Tensor

from autopar.runtime.transport.mpi import MpiComm

BLOCK_SECONDS = 2e-3  # a contender's turn, about
MOST_CALLS = 50
Call = Callable[[], object]


def main(request: str) -> None:
    options = json.loads(request)
    torch.set_num_threads(1)
    world = MPI.COMM_WORLD
    start_gloo(world)
    comm = MpiComm.duplicate(world)
    seconds: dict[str, dict[int, dict[str, float]]] = {}
    for size in options["sizes"]:
        for kind, calls in contenders(comm, world, max(1, size // 4)).items():
            seconds.setdefault(kind, {})[size] = take_turns(world, calls, options["rounds"])
    if world.rank == 0:
        print(json.dumps(seconds), flush=True)
    gloo.destroy_process_group()
    comm.free()


def start_gloo(world: MPI.Intracomm) -> None:
    place = world.bcast(tempfile.mkdtemp() if world.rank == 0 else None)
    gloo.init_process_group("gloo", init_method=f"file://{place}/store", rank=world.rank, world_size=world.size)


def contenders(comm: MpiComm, world: MPI.Intracomm, numel: int) -> dict[str, dict[str, Call]]:
    """Every collective on tensors of `numel` float32, of each contender."""
    ranks, part = world.size, -(-numel // world.size)
    whole, other = written(numel), written(numel)
    at_home = comm.empty(numel, torch.float32).zero_()
    padded, target = written(part * ranks).view(ranks, part), written(part * ranks).view(ranks, part)
    piece, parts, targets = written(part), list(padded), list(target)
    copy = lambda: other.copy_(whole)  # noqa: E731
    return {
        "all_reduce": {
            "copy": copy,
            "MPI": lambda: world.Allreduce(MPI.IN_PLACE, whole.numpy()),
            "gloo": lambda: gloo.all_reduce(whole),
            "autopar": lambda: comm.all_reduce(whole),
            "autopar in place": lambda: comm.all_reduce(at_home),
        },
        "reduce_scatter": {
            "copy": copy,
            "MPI": lambda: world.Reduce_scatter_block(padded.numpy(), piece.numpy()),
            "gloo": lambda: gloo.reduce_scatter(piece, parts),
            "autopar": lambda: comm.reduce_scatter(padded, piece),
        },
        "all_gather": {
            "copy": copy,
            "MPI": lambda: world.Allgather(piece.numpy(), target.numpy()),
            "gloo": lambda: gloo.all_gather(targets, piece),
            "autopar": lambda: comm.all_gather(piece, target),
        },
        "all_to_all": {
            "copy": copy,
            "MPI": lambda: world.Alltoall(padded.numpy(), target.numpy()),
            "gloo": lambda: gloo.all_to_all_single(target, padded),
            "autopar": lambda: comm.all_to_all(padded, target),
        },
    }


def written(numel: int) -> Tensor:
    """Zeros in memory of their own: pages that nobody has written to are all the same one, and fast to read."""
    return torch.empty(numel).fill_(0.0)


def take_turns(world: MPI.Intracomm, calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """The seconds of one call of each, which take turns; the slowest rank counts."""
    repeats = {name: calibrate(world, call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(world.allreduce(block(world, calls[name], repeats[name]), MPI.MAX))
    return {name: median(times) for name, times in seconds.items()}


def calibrate(world: MPI.Intracomm, call: Call) -> int:
    """How many calls fill a turn; also warms up."""
    call()
    seconds = world.allreduce(block(world, call, 2), MPI.MAX)
    return int(min(MOST_CALLS, max(2, BLOCK_SECONDS / seconds)))


def block(world: MPI.Intracomm, call: Call, repeats: int) -> float:
    """Mean seconds of one call, over `repeats` in a row."""
    world.Barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    main(sys.argv[1])
