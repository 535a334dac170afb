"""What runs on real MPI ranks: the random family's adjoint test and values, and a long sequence of calls.

It is part of `mpi_ranks.py`.
"""

import random

import test_partition_primitives as simulated
import torch
from mpi4py import MPI

from autopar.runtime import Partition, all_sum_reduce, broadcast, default_world, nothing, sum_reduce
from autopar.runtime.verification.partition_cases import PARTITION_FAMILY, case_error, draw_case

RANKS = MPI.COMM_WORLD.Get_size()
CASES, ROUNDS = (20, 50) if RANKS == 2 else (5, 10)  # ranks that share a core take long


def adjoints(comm):
    for seed in range(CASES):
        for name in sorted(PARTITION_FAMILY):
            case = draw_case(name, random.Random(seed), RANKS)
            assert case_error(case, comm, seed) <= 1e-12, case


def values(comm):
    for seed in range(CASES):
        for name in sorted(PARTITION_FAMILY):
            case = draw_case(name, random.Random(seed), RANKS)
            with simulated.live(case, comm) as here:
                x = torch.randint(-9, 9, here.shape, generator=torch.Generator().manual_seed(seed * 8 + comm.rank))
                y = here.function(x)
                xs = [
                    torch.tensor(flat).reshape(shape)
                    for flat, shape in comm.gather_objects([x.flatten().tolist(), x.shape])
                ]
                wanted = simulated.whole_of(case, [one.double() for one in xs], here.source, here.target)
                assert torch.equal(y.double(), wanted.get(comm.rank, torch.empty(0).double())), case


def short_floats(comm):
    """1 and a little on every other rank, more than half of eps together: 1 + eps where the sum is rounded once."""
    one, all_ranks = Partition(comm, (1,)), Partition(comm, (RANKS,))
    for dtype in (torch.float16, torch.bfloat16):
        eps = torch.finfo(dtype).eps
        x = torch.full((3,), 1.0 if comm.rank == 0 else 0.625 * eps / (RANKS - 1), dtype=dtype)
        y, z = sum_reduce(x, all_ranks, one), all_sum_reduce(x, all_ranks, [0])
        assert y.dtype == z.dtype == dtype
        assert y.tolist() == ([1 + eps] * 3 if one.active else [])
        assert z.tolist() == [1 + eps] * 3
    all_ranks.free()


def sequence(comm):
    """Two sums and copies in one graph, backward in their order on every rank, with a rank that only stands by."""
    last = RANKS - 1
    inner, one = Partition(comm, (last,)) if last else Partition(comm, (1,)), Partition(comm, (1,), (last,))
    for _ in range(ROUNDS):
        w, b = (torch.full((5,), float(i), requires_grad=True) for i in (2, 3))
        x = broadcast(w, one, inner) * (comm.rank + 1) if inner.active else nothing(broadcast(w, one, inner))
        y = all_sum_reduce(x, inner, [0])
        c = broadcast(b, one, inner)
        z = sum_reduce(y * c if inner.active else nothing(y, c), inner, one)
        z.sum().backward()
    total = inner.size * (inner.size + 1) / 2
    if one.active:
        assert z.tolist() == [inner.size * total * 6] * 5
        assert w.grad.tolist() == [inner.size * total * 3] * 5
        assert b.grad.tolist() == [inner.size * total * 2] * 5
    inner.free()


def partitions():
    comm = default_world()
    adjoints(comm)
    values(comm)
    short_floats(comm)
    sequence(comm)
    comm.free()
