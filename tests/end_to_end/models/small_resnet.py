"""The resnet example at a size that a test can afford; its extents do not divide by the grids'."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import resnet

model = functools.partial(resnet.model, widths=(6, 8), depths=(1, 2))
example_inputs = functools.partial(resnet.example_inputs, size=20, batch=6)
batches = functools.partial(resnet.batches, size=20, batch=6)
optimizer = resnet.optimizer
