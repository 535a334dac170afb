"""What `test_divided_ranks.py` runs on three MPI ranks: the tests of the simulation, and messages that wait for their receivers."""

import divided_programs as divided
import test_divided_steps
import torch
from mpi4py import MPI

from autopar.runtime import Grid

BYTES = 8 << 20  # beyond what MPI sends before it is received


def on_mpi(ranks, function, timeout=60.0):
    """`simulate` on the processes of this job: every process sees the results of all."""
    assert ranks == MPI.COMM_WORLD.Get_size()
    return MPI.COMM_WORLD.allgather(function())


def schedules():
    test_divided_steps.simulate = on_mpi
    for schedule in ("1f1b", "zb"):
        at = (2, 0, 0, 1)
        test_divided_steps.assert_trains_alike("stage:3", at, divided.named(schedule, at, 3), dropped=0.3)


def large_messages():
    """All send to all before anybody receives, and receive in another order."""
    comm = Grid("stage:3").place.comm
    others = [rank for rank in range(3) if rank != comm.rank]
    sent = [
        comm.start_send(torch.full((BYTES // 4,), float(10 * comm.rank + tag)), to, tag, "a test")
        for tag in range(3)
        for to in others
    ]
    for tag in (2, 0, 1):
        for source in others:
            room = torch.empty(BYTES // 4)
            comm.start_receive(room, source, tag, "a test").wait()
            assert bool((room == 10 * source + tag).all())
    sent.append(comm.start_send(torch.empty(0), (comm.rank + 1) % 3, 9, "no rows"))
    comm.start_receive(torch.empty(0), (comm.rank + 2) % 3, 9, "no rows").wait()
    for work in sent:
        work.wait()
        assert work.test()


if __name__ == "__main__":
    torch.set_num_threads(1)
    schedules()
    large_messages()
    if MPI.COMM_WORLD.Get_rank() == 0:
        print("done", flush=True)
