"""Rank 0's values on every rank, each of which receives its part and no more."""

import math
import random
from unittest import mock

import pytest
import torch
from torch import nn

from autopar.ir.layout import Copied, Replicate, Shard
from autopar.runtime import Grid, default_world, simulate
from autopar.runtime.parameters.distribute import from_rank0, live_values
from autopar.runtime.parameters.shards import local_shape, take_part
from autopar.runtime.transport.threads import ThreadComm

SHAPES = [(), (1,), (6, 5), (4, 3, 8), (0, 3)]


def drawn(draw, axes, shape):
    """Layouts over axes of which no two split one dim, as a program's are."""
    dims = draw.sample(range(len(shape)), len(shape))
    kinds = [Shard(dims.pop()) if dims and draw.random() < 0.6 else draw.choice((Replicate(), Copied())) for _ in axes]
    return tuple(kinds)


@pytest.mark.parametrize("grid", ["1", "3", "2x3", "2x1x2"])
def test_every_rank_gets_its_part_of_rank_0s_values_and_receives_no_more(grid):
    sizes = [int(n) for n in grid.split("x")]
    received = {}
    exchange = ThreadComm.exchange

    def counted(self, sends, recvs):
        rank = default_world().rank
        received[rank] = received.get(rank, 0) + sum(one.numel() for one in recvs.values())
        exchange(self, sends, recvs)

    def rank():
        axes, comm = Grid(grid).axes, default_world()
        draw = random.Random(grid)
        truth = {f"t{i}": torch.arange(math.prod(s), dtype=torch.float64).reshape(s) for i, s in enumerate(SHAPES * 3)}
        mine = {name: one if comm.rank == 0 else torch.full_like(one, math.nan) for name, one in truth.items()}
        for name, handed in from_rank0(mine, comm):
            layouts = drawn(draw, sizes, truth[name].shape)
            part = handed.part(layouts, axes)
            assert torch.equal(part, take_part(truth[name], layouts, axes))
            assert part.untyped_storage().data_ptr() != mine[name].untyped_storage().data_ptr() or not part.numel()
        before = received.get(comm.rank, 0)
        whole = truth["t3"]
        split = tuple(Shard(i) for i in range(len(sizes)))
        dict(from_rank0({"w": whole}, comm))["w"].part(split, axes)
        later = math.prod(sizes[1:]) if comm.rank else 1
        assert received.get(comm.rank, 0) - before <= later * math.prod(local_shape(whole.shape, split, axes)) * 2

    with mock.patch.object(ThreadComm, "exchange", counted):
        simulate(math.prod(sizes), rank)


def test_a_live_module_has_rank_0s_values_whatever_the_others_have():
    modules = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)] + [None]
    modules[1].extra = nn.Linear(2, 2)

    def rank():
        comm, axes = default_world(), Grid("3").axes
        return {name: one.part((Replicate(),), axes) for name, one in live_values(modules[comm.rank], comm)}

    for found in simulate(3, rank):
        torch.testing.assert_close(found, dict(modules[0].state_dict()), rtol=0, atol=0)
