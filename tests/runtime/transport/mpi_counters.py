"""What `mpi_ranks.py` runs on real MPI ranks: draws of many ranks at a time, also while the first rank computes."""

import random
import shutil
import tempfile
from pathlib import Path

import torch
from mpi4py import MPI

from autopar.runtime.transport.mpi import MpiComm

RANKS, ME = MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank()
DRAWS = 50


def counters():
    """Every number is drawn once, and whoever draws waits for nobody: in the first turn the first rank draws last of all."""
    comm, chance = MpiComm.world(), random.Random(ME)
    one, other = comm.counter(), comm.counter()
    folder = Path(MPI.COMM_WORLD.bcast(tempfile.mkdtemp()))
    for turn in range(3):
        while turn == 0 and ME == 0 and len(list(folder.iterdir())) < RANKS - 1:
            torch.ones(500, 500) @ torch.ones(500, 500)  # outside of MPI until the others have drawn
        drawn = [one.draw() for _ in range(DRAWS)]
        if ME:
            (folder / str(ME)).touch()
        every = sorted(number for theirs in MPI.COMM_WORLD.allgather(drawn) for number in theirs)
        assert drawn == sorted(drawn)
        assert every == list(range(turn * RANKS * DRAWS, (turn + 1) * RANKS * DRAWS))
    for counter in [chance.choice([one, other]) for _ in range(DRAWS)]:
        counter.draw()
    MPI.COMM_WORLD.Barrier()
    last = MPI.COMM_WORLD.allgather((one.draw(), other.draw()))
    assert max(a for a, _ in last) + max(b for _, b in last) + 2 == (3 + 1) * RANKS * DRAWS + 2 * RANKS
    one.free()
    other.free()
    comm.free()
    if ME == 0:
        shutil.rmtree(folder)
