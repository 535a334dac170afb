"""What `test_mpi.py` runs on real MPI ranks, parts by their names: the tests of the simulation, with MPI in the place of threads.

`simulate` is replaced by a function that runs the given function once on this process's rank, and gathers the results.
"""

import itertools
import sys

import mpi_counters
import mpi_sums
import partition_ranks
import test_conversion_table
import test_operators
import test_staged
import torch
from mpi4py import MPI
from oracle import CELLS, assemble, layout_of

from autopar.ir.layout import Shard, dual
from autopar.runtime import Grid, all_sum, batch_norm, cross_entropy
from autopar.runtime.transport.mpi import MpiComm

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
TYPES = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
RANKS = MPI.COMM_WORLD.Get_size()


def on_mpi(ranks, function, timeout=60.0):
    """`simulate` on the processes of this job: every process sees the results of all."""
    assert ranks == RANKS
    return MPI.COMM_WORLD.allgather(function())


SHARDS = ((Shard(0, 2, 3), Shard(2)), (Shard(1), Shard(1, 3, 1)), (Shard(2, 1, 2), Shard(0, 2)))


def conversions():
    every = ((torch.float64, None), (torch.float32, "uneven"))
    for dtype, cuts in every if RANKS == 3 else every[1:]:  # ranks that share a core take long
        inner = [0.7] * (RANKS - 1)
        moved = None if cuts is None else (0.0, *inner, 1.0)
        for source, target in CELLS:
            for first, second in SHARDS if RANKS < 4 else SHARDS[:1]:
                a = layout_of(source, first)
                b = layout_of(target, second if source == "shard" else first)
                one_cell(a, b, moved, (12, 9, 4), dtype)


def one_cell(a, b, cuts, shape, dtype):
    whole, dwhole, results = test_conversion_table.run(RANKS, cuts, a, b, shape, dtype)
    axis, (_, ys, _, dxs) = results[0][0], ([result[i] for result in results] for i in range(1, 5))
    sizes = [shape[s.dim] if isinstance(s, Shard) else None for s in (a, b)]
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(assemble(ys, b, axis, sizes[1]), whole, **tolerance)
    torch.testing.assert_close(assemble(dxs, dual(a), axis, sizes[0]), dwhole, **tolerance)


def windows():
    axis = Grid(str(RANKS)).axes[0]
    small = {"kernel": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1), "groups": 1}
    for n, stride in itertools.product((5, 9), (1, 2)):
        s = {**small, "stride": (stride, 2), "output_padding": (0, 0), "include": True}
        for kind in ("conv", "max_pool", "conv_transpose"):
            weight = {"conv": (3, 2, 3, 2), "conv_transpose": (2, 3, 3, 2)}.get(kind)
            x = test_operators.random(1, 2, n, 5)
            test_operators.check(kind, (axis,), (2,), x, weight and test_operators.random(*weight, seed=1), None, s)


def types():
    """Sums in every type that torch can hold, blocking and not, in a communicator of its own."""
    comm = MpiComm.world()
    for dtype in TYPES:
        for start in (False, True):
            tensor = torch.ones(5, dtype=dtype)
            if start:
                work = comm.start_all_reduce(tensor)
                while not work.test():
                    pass
                work.wait()
            else:
                comm.all_reduce(tensor)
            wanted = 1 if dtype == torch.bool else RANKS
            assert (tensor == torch.full((5,), wanted, dtype=dtype)).all(), dtype
        parts, out = [torch.ones(2 + i, dtype=dtype) for i in range(RANKS)], torch.empty(2 + comm.rank, dtype=dtype)
        comm.reduce_scatter(parts, out)
        assert (out == torch.full(out.shape, wanted, dtype=dtype)).all(), dtype
    generator = torch.Generator().manual_seed(comm.rank)
    for size in (3, 1000, 300_000):
        total = torch.randn(size, generator=generator) * 10.0 ** (3 * comm.rank)
        comm.all_reduce(total)
        every = [torch.empty_like(total) for _ in range(RANKS)]
        comm.all_gather(total, every)
        assert all(torch.equal(one, total) for one in every), "sums differ between ranks"
    root = torch.arange(4) if comm.rank == 1 else torch.zeros(4, dtype=torch.int64)
    comm.broadcast(root, 1)
    assert root.tolist() == [0, 1, 2, 3]
    assert comm.gather_objects({"rank": comm.rank}) == [{"rank": i} for i in range(RANKS)]
    assert comm.seconds > 0
    comm.barrier()
    comm.free()
    comm.free()


def statistics():
    axis = Grid(str(RANKS)).axes[0]
    x = test_operators.random(6, 3, 4)
    bounds = axis.bounds(6)
    mine = x[bounds[axis.index] : bounds[axis.index + 1]].clone().requires_grad_()
    y = batch_norm(mine, None, None, None, None, over=(axis,))
    loss = all_sum(cross_entropy(y, torch.zeros(len(mine), 4, dtype=torch.int64), (axis,)), axis)
    (dx,) = torch.autograd.grad(loss, mine)
    whole = x.clone().requires_grad_()
    normal = torch.nn.functional.batch_norm(whole, None, None, training=True)
    wanted = torch.nn.functional.cross_entropy(normal, torch.zeros(6, 4, dtype=torch.int64))
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(dx, whole.grad[bounds[axis.index] : bounds[axis.index + 1]], rtol=1e-10, atol=1e-14)


def many_grids():
    """Communicators are given back, all of them: MPICH has 2048, most of which are taken here. First, as others keep theirs."""
    taken = [MPI.COMM_SELF.Dup() for _ in range(1900)]
    for _ in range(200):
        grid = Grid(f"1x{RANKS}")
        grid.free()
    for one in taken:
        one.Free()


PARTS = (
    many_grids,
    types,
    conversions,
    windows,
    statistics,
    partition_ranks.partitions,
    test_staged.on_mpi,
    mpi_sums.sums,
    mpi_counters.counters,
)


def main(names):
    test_conversion_table.simulate = on_mpi
    for part in PARTS:
        if not names or part.__name__ in names:
            part()
            if MPI.COMM_WORLD.Get_rank() == 0:
                print(part.__name__, flush=True)
    nodes = mpi_sums.count_nodes()
    if MPI.COMM_WORLD.Get_rank() == 0:
        print("nodes", nodes, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
