"""The unet example at a size that a test can afford; its extents do not divide by the grids'."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import unet

model = functools.partial(unet.model, channels=4)
example_inputs = functools.partial(unet.example_inputs, size=(20, 12, 8))
batches = functools.partial(unet.batches, size=(20, 12, 8))
optimizer = unet.optimizer
