"""A linear layer over four ranks, by hand: its matrix in quarters, its operand and result in halves on two ranks each.

python examples/by_hand.py                               four simulated ranks
mpiexec -n 4 python -m mpi4py examples/by_hand.py        four MPI ranks
"""

import torch
import torch.nn.functional as F

from autopar.runtime import Partition, broadcast, default_world, gather_to, scatter, simulate, sum_reduce


def layer():
    """Returns how far result and gradient are from those of one process; 0 on ranks other than the first."""
    comm = default_world()
    draw = torch.Generator().manual_seed(0)
    whole_x, whole_w = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((8, 10), (6, 10)))
    whole_w.requires_grad_()

    root, matrix = Partition(comm, (1,)), Partition(comm, (2, 2))
    upper, lower = Partition(comm, (1, 2), (0, 1)), Partition(comm, (1, 2), (2, 3))
    x, w = scatter(whole_x, root, upper), scatter(whole_w, root, matrix)

    y = F.linear(broadcast(x, upper, matrix), w)  # each half of x goes down a column of ranks; adjoint: a sum
    y = sum_reduce(y, matrix, lower.transposed())  # the two addends of a row of ranks; adjoint: copies
    y = gather_to(y, lower, root)
    y.square().sum().backward()  # on every rank, whether or not it holds any of y

    if not root.active:
        return 0.0
    w = whole_w.detach().requires_grad_()
    z = F.linear(whole_x, w)
    z.square().sum().backward()
    return max((y - z).abs().max().item(), (whole_w.grad - w.grad).abs().max().item())


if __name__ == "__main__":
    world = default_world()
    difference = layer() if world.size == 4 else simulate(4, layer)[0]
    if world.rank == 0:
        print(f"largest difference from one process: {difference:.1e}")
