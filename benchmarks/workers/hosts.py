"""One rank of benchmarks/several_hosts: times what it is told to, and prints JSON on rank 0."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from mpi4py import MPI

from autopar.runtime.transport.mpi import MpiComm
from benchmarks.contenders.compiled import CompiledTrainer
from benchmarks.models import EVERY

WORLD = MPI.COMM_WORLD


def sums(bytes_: str, rounds: str) -> dict[str, float]:
    """Seconds of an all-reduce: autopar's in place and on any tensor, and MPI's own."""
    comm = MpiComm.duplicate(WORLD)
    numel = int(bytes_) // 4
    stored, other = comm.empty(numel, torch.float32).zero_(), torch.zeros(numel)
    calls = {
        "autopar in place": lambda: comm.all_reduce(stored),
        "autopar": lambda: comm.all_reduce(other),
        "MPI": lambda: WORLD.Allreduce(MPI.IN_PLACE, other.numpy()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(int(rounds)):
        for name, call in calls.items():
            seconds[name].append(slowest(call))
    comm.release(stored)
    comm.free()
    return {name: median(times[1:]) for name, times in seconds.items()}


def steps(model: str, folder: str, rounds: str) -> dict[str, float]:
    """Seconds of a training step and of its parts: with sums behind backward, with blocking sums, with none."""
    overlapped = CompiledTrainer(EVERY[model](False), Path(folder))
    blocking = CompiledTrainer(EVERY[model](False), Path(folder), bucket_bytes=1 << 40)  # one bucket, full at the end
    seconds: dict[str, list[float]] = {name: [] for name in ("forward", "backward", "overlapped", "blocking")}
    for _ in range(int(rounds)):
        seconds["overlapped"].append(slowest(overlapped.step))
        seconds["blocking"].append(slowest(blocking.step))
        with overlapped.session.accumulate():
            WORLD.Barrier()
            start = time.perf_counter()
            loss = overlapped.loss()
            seconds["forward"].append(WORLD.allreduce(time.perf_counter() - start, MPI.MAX))
            seconds["backward"].append(slowest(loss.backward))
        overlapped.optimizer.zero_grad()
    size = float(sum(overlapped.session.bucket_sizes))
    for trainer in (blocking, overlapped):
        trainer.close()
    return {name: median(times[1:]) for name, times in seconds.items()} | {"gradient_bytes": size}


def exchange(bytes_: str, rounds: str) -> dict[str, float]:
    """Seconds of plain MPI messages of so many bytes, both ways at once, between the ranks with the same place on two hosts."""
    send, recv = torch.zeros(int(bytes_) // 4).numpy(), torch.zeros(int(bytes_) // 4).numpy()
    other = (WORLD.rank + WORLD.size // 2) % WORLD.size
    times = [slowest(lambda: WORLD.Sendrecv(send, other, recvbuf=recv, source=other)) for _ in range(int(rounds))]
    return {"seconds": median(times[1:])}


def train(model: str, folder: str, rounds: str, size: str) -> dict[str, float]:
    """Seconds of a training step of a compiled program; size is ``small`` or ``full``."""
    trainer = CompiledTrainer(EVERY[model](size == "small"), Path(folder))
    times = [slowest(trainer.step) for _ in range(int(rounds))]
    trainer.close()
    return {"seconds": median(times[1:])}


def slowest(call: Callable[[], object]) -> float:
    """Seconds of one call on the slowest rank."""
    WORLD.Barrier()
    start = time.perf_counter()
    call()
    return WORLD.allreduce(time.perf_counter() - start, MPI.MAX)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = {"sums": sums, "steps": steps, "exchange": exchange, "train": train}[sys.argv[1]](*sys.argv[2:])
    if WORLD.rank == 0:
        print(json.dumps(result), flush=True)
