"""big_image on grid 2x2, compiled by autopar 0.1.0. Edit freely: `autopar run` executes this file."""

import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Replicate, Shard, all_sum, avg_pool, batch_norm, conv, keep, main

GRID = Grid("2x2")
AXIS0, AXIS1 = GRID.axes
INPUTS = {"images": [Shard(2), Shard(3)], "labels": [Replicate(), Replicate()]}
PARAMETERS = {
    "conv1.weight": [Copied(), Copied()],
    "norm.*": [Replicate(), Replicate()],
    "norm.weight": [Copied(), Copied()],
    "norm.bias": [Copied(), Copied()],
    "conv2.*": [Copied(), Copied()],
    "head.weight": [Shard(1, blocks=4, unit=8), Shard(1, blocks=32)],
    "head.bias": [Replicate(), Replicate()],
}


def forward(p, images, labels):
    # small_models.py:42, split h over axis0, w over axis1, 1.8 ms, 128 B 0.0033 ms
    conv1 = conv(images, p.conv1.weight, padding=1, over={2: (AXIS0, 16), 3: (AXIS1, 16)})
    p.norm.num_batches_tracked.add_(p.training)
    # small_models.py:42, split s0 over axis0, s1 over axis1, 0.77 ms, 144 B + 128 B back 0.0067 ms
    norm_2 = batch_norm(conv1, p.norm.weight, p.norm.bias, p.norm.running_mean, p.norm.running_var, training=p.training, over=(AXIS0, AXIS1))
    silu = F.silu(norm_2)  # small_models.py:42, split d2 over axis0, d3 over axis1, 0.056 ms
    # small_models.py:43, split h over axis0, w over axis1, 5.5 ms, 256 B + 256 B back 0.0091 ms
    conv2 = conv(silu, p.conv2.weight, p.conv2.bias, padding=1, over={2: (AXIS0, 16), 3: (AXIS1, 16)})
    # small_models.py:43, split d2 over axis0, d3 over axis1, 0.11 ms
    reshape = avg_pool(F.silu(conv2), (2, 2), over={2: (AXIS0, 16), 3: (AXIS1, 16)}).flatten(1)
    # small_models.py:44, split k over axis0, k over axis1, 0.19 ms, 20 B 0.0016 ms
    head = all_sum(F.linear(reshape, p.head.weight, keep(keep(p.head.bias, AXIS1), AXIS0)), AXIS0)
    return F.cross_entropy(all_sum(head, AXIS1), labels)                                  # small_models.py:44, whole, 0.005 ms, 20 B 0.0012 ms


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
