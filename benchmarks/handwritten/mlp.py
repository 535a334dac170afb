"""The MLP by hand: weights split by columns and rows in turn, two sums forward and one backward."""

import torch.nn.functional as F

from autopar.runtime import all_sum, copy
from benchmarks.contenders.by_hand import HandwrittenPlan, whole


def shard(name, tensor, axis):
    layer, kind = name.split(".")
    if layer in ("fc1", "fc3"):
        return tensor.chunk(axis.size, 0)[axis.index]
    return tensor.chunk(axis.size, 1)[axis.index] if kind == "weight" else tensor


def pair(x, first, second, axis):
    h = F.relu(F.linear(copy(x, axis), first.weight, first.bias))
    return all_sum(F.linear(h, second.weight), axis) + second.bias


def forward(p, axis, x, y):
    h = F.relu(pair(x, p.fc1, p.fc2, axis))
    return F.mse_loss(pair(h, p.fc3, p.fc4, axis), y)


PLAN = HandwrittenPlan(forward, shard, whole, summed=False)
