"""What `mpi_ranks.py` runs on real MPI ranks: sums of whole numbers, which are exact whatever the order, over and over.

Ranks are late in turn, so that a buffer which is written too early shows as a wrong sum.
"""

import random
import time

import torch
from mpi4py import MPI

from autopar.runtime.transport import mpi
from autopar.runtime.transport.mpi import MpiComm

RANKS = MPI.COMM_WORLD.Get_size()
TURNS = 40 if RANKS == 2 else 16  # every size with every type; ranks that share a core take long
ME = MPI.COMM_WORLD.Get_rank()
SIZES = (0, 1, 63, 4099, 70_000, 131_072, 131_073, 300_001)
TYPES = (torch.float32, torch.float64, torch.int64, torch.complex64, torch.bfloat16)


def late(chance):
    if chance.random() < 0.3:
        time.sleep(chance.random() * 2e-3)


def given(size, dtype, turn, rank=ME):
    """Small whole numbers; no two turns, ranks or neighbouring elements have the same."""
    return ((torch.arange(size) * 3 + 5 * rank + turn) % 7).to(dtype)


def total(size, dtype, turn):
    return torch.stack([given(size, dtype, turn, rank) for rank in range(RANKS)]).sum(0)


def private(comm, chance):
    for turn in range(TURNS):
        size, dtype = SIZES[turn % len(SIZES)], TYPES[turn % len(TYPES)]
        tensor = given(size, dtype, turn)
        late(chance)
        comm.all_reduce(tensor)
        assert torch.equal(tensor, total(size, dtype, turn)), (turn, size, dtype)


def at_home(comm, chance):
    homes = [comm.empty(size, dtype) for size in SIZES for dtype in TYPES]
    for turn in range(TURNS):
        home = homes[turn % len(homes)]
        home.copy_(given(home.numel(), home.dtype, turn))
        late(chance)
        comm.all_reduce(home)
        assert torch.equal(home, total(home.numel(), home.dtype, turn)), (turn, home.numel(), home.dtype)
    for home in homes:
        comm.release(home)


def overlapping(comm, chance):
    """Several sums under way, blocking ones between them, waited for in any order."""
    homes = [comm.empty(size, torch.float32) for size in SIZES]
    for turn in range(TURNS // 8):
        works = []
        for i, home in enumerate(homes):
            home.copy_(given(home.numel(), home.dtype, turn + i))
            late(chance)
            works.append(comm.start_all_reduce(home))
            if i % 3 == 1:
                between = given(300_001, torch.float64, turn)
                comm.all_reduce(between)
                assert torch.equal(between, total(300_001, torch.float64, turn)), turn
        for i in chance.sample(range(len(homes)), len(homes)):
            if chance.random() < 0.5:
                works[i].wait()
            while not works[i].test():
                pass
            assert torch.equal(homes[i], total(homes[i].numel(), torch.float32, turn + i)), (turn, i)


def scattered(comm, chance):
    for turn in range(TURNS):
        size, dtype = SIZES[turn % len(SIZES)], TYPES[turn % len(TYPES)]
        sizes = [size // RANKS + (7 * rank if turn % 2 else 0) for rank in range(RANKS)]
        whole = given(sum(sizes), dtype, turn)
        out = torch.empty(sizes[ME], dtype=dtype)
        late(chance)
        comm.reduce_scatter(list(whole.split(sizes)) if turn % 2 else whole.view(RANKS, -1), out)
        assert torch.equal(out, total(sum(sizes), dtype, turn).split(sizes)[ME]), (turn, sizes, dtype)


def gathered(comm, chance):
    """Parts of one size and of any, empty ones too, in one piece of memory and apart."""
    for turn in range(TURNS // 4):
        size = SIZES[turn % len(SIZES)]
        sizes = [
            size + 7 * ((rank + turn) % RANKS) if turn % 3 else size * (rank != turn % RANKS) for rank in range(RANKS)
        ]
        every = [torch.full((n,), turn + 1000.0 * rank) for rank, n in enumerate(sizes)]
        outs = [torch.empty(n + 1)[1:].zero_() for n in sizes]
        late(chance)
        comm.all_gather(every[ME], outs)
        assert all(torch.equal(one, other) for one, other in zip(outs, every, strict=True)), (turn, sizes)
        table = torch.empty(RANKS, size)
        comm.all_gather(torch.full((size,), float(turn + ME)), table)
        assert torch.equal(table, turn + torch.arange(float(RANKS)).view(-1, 1).expand(RANKS, size)), (turn, size)


def same_bits(comm, chance):
    """A sum is the same to the last bit on every rank, and in every run."""
    generator = torch.Generator().manual_seed(ME)
    for size in SIZES:
        tensor = torch.randn(size, generator=generator) * 10.0 ** (3 * ME)
        again = tensor.clone()
        for one in (tensor, again):
            late(chance)
            comm.all_reduce(one)
        every = [torch.empty_like(tensor) for _ in range(RANKS)]
        comm.all_gather(tensor, every)
        assert all(torch.equal(one, again) for one in every), size


def sums():
    """Between two ranks small tensors, too, go through memory."""
    mpi._STAGED_BYTES = mpi._SCATTERED_BYTES = mpi._CROWDED_BYTES = mpi._HOME_BYTES = 0 if RANKS == 2 else 100_000
    for part in (private, at_home, overlapping, scattered, gathered, same_bits):
        comm = MpiComm.world()
        part(comm, random.Random(ME))
        comm.free()


def count_nodes():
    node = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    size = node.size
    node.Free()
    return RANKS // size
