"""wide_mlp on grid 2, compiled by autopar 0.1.0. Edit freely: `autopar run` executes this file."""

import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Shard, all_sum, main

GRID = Grid("2")
(AXIS0,) = GRID.axes
INPUTS = {"x": [Shard(0)], "y": [Shard(0)]}
PARAMETERS = {"fc1.*": [Copied()], "fc2.*": [Copied()]}


def forward(p, x, y):
    relu = F.relu(F.linear(x, p.fc1.weight, p.fc1.bias))                         # small_models.py:17, split b0 over axis0, 0.02 ms
    fc2 = F.linear(relu, p.fc2.weight, p.fc2.bias)                               # small_models.py:17, split b0 over axis0, 0.01 ms
    return all_sum(F.mse_loss(fc2, y, reduction="sum") / (p.batch * 64), AXIS0)  # small_models.py:17, split d0 over axis0, 0.01 ms, 4 B 0.004 ms


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
