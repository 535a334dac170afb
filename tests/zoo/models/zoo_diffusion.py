"""The diffusion U-Net of the examples, small."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import diffusion

model = functools.partial(diffusion.model, width=12, groups=3, heads=3)
example_inputs = functools.partial(diffusion.example_inputs, size=10, batch=6)
batches = functools.partial(diffusion.batches, size=10, batch=6)
