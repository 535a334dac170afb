"""The integer program on places, where it is asked for: no longer steps, and bounds that are nearer."""

import itertools

import torch
from torch import nn

import autopar


class Chain(nn.Module):
    """More calls than an exhaustive search is begun for."""

    def __init__(self):
        super().__init__()
        widths = [64, 48, 48] * 5 + [64]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.square().mean()


def test_the_integer_program_improves_the_bound_of_a_placement():
    def placed(solver):
        inputs = (torch.zeros(32, 64),)
        made = autopar.compile(Chain(), inputs, grid="stage:3", microbatches=4, segments=1, solver=solver)
        return made.plan.placement

    auto, ilp = placed("auto"), placed("ilp")
    assert ilp.makespan <= auto.makespan
    assert auto.bound < ilp.bound <= ilp.makespan
