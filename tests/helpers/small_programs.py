"""Small models with programs written by hand as the code generator would, and their sequential counterparts."""

import threading

import torch
import torch.nn.functional as F
from torch import nn

from autopar.runtime import Copied, Grid, Replicate, Shard, all_sum, copy
from autopar.runtime.program.plan_reader import Description, TensorSpec
from autopar.runtime.program.program import Program

SEEDING = threading.Lock()  # simulated ranks share a random number generator
BATCH, IN, HIDDEN, OUT = 5, 3, 7, 4


class Mlp(nn.Module):
    """Two Linears with a frozen scale, a counted buffer, and a loss that is a mean over the batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT))
        self.scale = nn.Parameter(torch.full((OUT,), 1.5), requires_grad=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(HIDDEN))

    def forward(self, x, y):
        hidden = self.layers[1](self.layers[0](x))
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * hidden.mean(0))
            self.steps.add_(1)
        return ((self.layers[2](hidden) * self.scale - y) ** 2).sum() / (BATCH * OUT)


def mlp_program(grid):
    """Split by batch over the first axis, column then row over the second."""
    data, model = grid.axes

    def forward(p, x, y):
        h = torch.tanh(F.linear(copy(x, model), p.layers[0].weight, p.layers[0].bias))
        with torch.no_grad():
            p.mean.mul_(0.9).add_(0.1 * all_sum(h.detach().sum(0), data) / BATCH)
            p.steps.add_(1)
        out = all_sum(F.linear(h, p.layers[2].weight), model) + p.layers[2].bias
        return all_sum(((out * p.scale - y) ** 2).sum() / (BATCH * OUT), data)

    parameters = {
        "layers.0.weight": [Copied(), Shard(0)],
        "layers.0.bias": [Copied(), Shard(0)],
        "layers.2.weight": [Copied(), Shard(1)],
        "layers.2.bias": [Copied(), Replicate()],
        "scale": [Copied(), Replicate()],
        "steps": [Replicate(), Replicate()],
        "mean": [Replicate(), Shard(0)],
    }
    return Program(grid, forward, {"x": [Shard(0), Replicate()], "y": [Shard(0), Replicate()]}, parameters)


def mlp_inputs(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(BATCH, IN + OUT, generator=generator, dtype=dtype)
    return {"x": made[:, :IN].contiguous(), "y": made[:, IN:].contiguous()}


class Tied(nn.Module):
    """An embedding that is also the head, and a block list of which one block is used twice and one never."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for i in (0, 1, 0):
            x = x + torch.sin(self.blocks[i](x))
        return F.cross_entropy(self.head(x), tokens)


def tied_program(grid):
    """Everything copied; every axis splits the batch, the last one inside what the ones before have left."""

    def forward(p, tokens):
        x = F.embedding(tokens, p.embed.weight)
        for i in (0, 1, 0):
            x = x + torch.sin(F.linear(x, p.blocks[i].weight, p.blocks[i].bias))
        loss = F.cross_entropy(F.linear(x, p.head.weight), tokens, reduction="sum") / 10
        for axis in grid.axes:
            loss = all_sum(loss, axis)
        return loss

    copied = [Copied() for _ in grid.axes]
    parameters = {"embed.weight": copied, "blocks.*.weight": copied, "blocks.*.bias": copied}
    return Program(grid, forward, {"tokens": [Shard(0) for _ in grid.axes]}, parameters)


def tied_inputs(seed=0):
    return {"tokens": torch.randint(9, (10,), generator=torch.Generator().manual_seed(seed))}


def describe(model, inputs, grid):
    """What plan.json would say of a live module."""
    owners = {}
    for name, one in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        owners.setdefault(one, []).append(name)
    parameters = [
        TensorSpec(names[0], tuple(one.shape), one.dtype, _kind(one), tuple(names[1:])) for one, names in owners.items()
    ]
    given = [TensorSpec(name, tuple(one.shape), one.dtype, "input") for name, one in inputs.items()]
    return Description(type(model).__name__.lower(), str(Grid(grid).shape if isinstance(grid, str) else grid.shape),
                       tuple(given), tuple(parameters))  # fmt: skip


def _kind(one):
    if not isinstance(one, nn.Parameter):
        return "buffer"
    return "parameter" if one.requires_grad else "frozen"


def make(kind, dtype=torch.float64):
    """A sequential model and its inputs by step, the same on every call."""
    with SEEDING, torch.random.fork_rng():
        torch.manual_seed(1)
        model = (Mlp if kind == "mlp" else Tied)().to(dtype)
    inputs = (lambda step: mlp_inputs(step, dtype)) if kind == "mlp" else tied_inputs
    return model, inputs


PROGRAMS = {"mlp": mlp_program, "tied": tied_program}
