"""The LSTM language model of the examples, small."""

import functools
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "examples"))

import lstm

model = functools.partial(lstm.model, layers=2, width=10)
example_inputs = functools.partial(lstm.example_inputs, tokens=7, batch=6)
batches = functools.partial(lstm.batches, tokens=7, batch=6)
