"""A compiled folder written by hand: a model file, its program for two ranks, and the plan."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import warm_launch
from warm_ranks import found_by

import autopar
from autopar.runtime.program.plan_reader import VERSION

MODEL = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 5)
        self.fc2 = nn.Linear(5, 2)

    def forward(self, x, y):
        return {"loss": ((self.fc2(torch.relu(self.fc1(x))) - y) ** 2).sum() / 8}


def model():
    return Model()


def example_inputs():
    return {"x": torch.ones(4, 3), "y": torch.zeros(4, 2)}


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield {"x": torch.randn(4, 3, generator=generator), "y": torch.randn(4, 2, generator=generator)}
"""

PROGRAM = """
import torch
import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Replicate, Shard, all_sum, copy, main

GRID = Grid("2")
RANKS, = GRID.axes
INPUTS = {"x": [Replicate()], "y": [Replicate()]}
PARAMETERS = {"fc1.*": [Shard(0)], "fc2.weight": [Shard(1)], "fc2.bias": [Replicate()]}


def forward(p, x, y):
    h = torch.relu(F.linear(copy(x, RANKS), p.fc1.weight, p.fc1.bias))
    return ((all_sum(F.linear(h, p.fc2.weight), RANKS) + p.fc2.bias - y) ** 2).sum() / 8


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
"""

SHAPES = {"fc1.weight": [5, 3], "fc1.bias": [5], "fc2.weight": [2, 5], "fc2.bias": [2]}


def write(root, model=MODEL, program=PROGRAM, changes=None):
    """Write ``root/model.py`` and ``root/build``; `changes` replace entries of the plan. Returns the program's path."""
    folder = root / "build"
    folder.mkdir()
    (root / "model.py").write_text(model)
    (folder / "program.py").write_text(program)
    plan = {
        "version": VERSION,
        "autopar": autopar.__version__,
        "name": "model",
        "grid": "2",
        "model": {"path": "../model.py", "sha256": digest(model), "attribute": "model"},
        "inputs": [
            {"name": name, "shape": [4, n], "dtype": "float32", "kind": "input"} for name, n in (("x", 3), ("y", 2))
        ],
        "parameters": [
            {"name": name, "shape": shape, "dtype": "float32", "kind": "parameter", "layouts": [], "aliases": []}
            for name, shape in SHAPES.items()
        ],
        "program_sha256": digest(program),
    }
    (folder / "plan.json").write_text(json.dumps(plan | (changes or {})))
    return folder / "program.py"


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def run(program, *arguments, ranks=2, seconds=120, environment=None):
    """Launch the program as `autopar run` does, on warm ranks. Returns the completed process."""
    line = [sys.executable, warm_launch.__file__, str(program), str(ranks), *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | found_by() | (environment or {})
    return subprocess.run(
        line, capture_output=True, text=True, timeout=seconds, env=variables, check=False, cwd=Path(program).parent
    )
