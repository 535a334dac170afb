"""The 3-D U-Net of the examples, small."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import unet

model = functools.partial(unet.model, channels=3)
example_inputs = functools.partial(unet.example_inputs, size=(20, 12, 8))
batches = functools.partial(unet.batches, size=(20, 12, 8))
