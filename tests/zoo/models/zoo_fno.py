"""The Fourier neural operator of the examples, small."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import fno

model = functools.partial(fno.model, layers=2, width=5, modes=3)
example_inputs = functools.partial(fno.example_inputs, size=14, batch=6)
batches = functools.partial(fno.batches, size=14, batch=6)
