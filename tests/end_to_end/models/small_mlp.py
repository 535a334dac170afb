"""The mlp example at a size that a test can afford; its extents do not divide by the grids'."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import mlp

model = functools.partial(mlp.model, width=25)
example_inputs = functools.partial(mlp.example_inputs, width=25, batch=6)
batches = functools.partial(mlp.batches, width=25, batch=6)
optimizer = mlp.optimizer
