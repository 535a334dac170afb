"""wide_mlp on grid 2, compiled by autopar 0.1.0. Edit freely: `autopar run` executes this file."""

import torch.nn.functional as F
from autopar.runtime import Grid, Program, Replicate, Shard, all_sum, keep, main

GRID = Grid("2")
(AXIS0,) = GRID.axes
INPUTS = {"x": [Replicate()], "y": [Replicate()]}
PARAMETERS = {"fc1.*": [Shard(0)], "fc2.weight": [Shard(1)], "fc2.bias": [Replicate()]}


def forward(p, x, y):
    relu = F.relu(F.linear(x, p.fc1.weight, p.fc1.bias))                         # small_models.py:17, split n over axis0, 0.02 ms
    fc2 = all_sum(F.linear(relu, p.fc2.weight, keep(p.fc2.bias, AXIS0)), AXIS0)  # small_models.py:17, split k over axis0, 0.01 ms, 2 KiB 0.0094 ms
    return F.mse_loss(fc2, y)                                                    # small_models.py:17, whole, 0.01 ms


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
