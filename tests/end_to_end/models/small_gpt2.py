"""The gpt2 example at a size that a test can afford; its extents do not divide by the grids'."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import gpt2

model = functools.partial(gpt2.model, layers=2, width=24, heads=6, tokens=10)
example_inputs = functools.partial(gpt2.example_inputs, tokens=10, batch=6)
batches = functools.partial(gpt2.batches, tokens=10, batch=6)
optimizer = gpt2.optimizer
