"""Captures that several tests need: each made once, also where they run in several processes (`conftest` makes the folder).

Capturing two linear layers takes torch.export most of a second, and everything else that a compilation does a tenth of it.
"""

import inspect
import os
import pickle
import re
from hashlib import sha256
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from autopar.capture import capture, pipeline

FOLDER = "AUTOPAR_TESTS_SHARED"
_KNOWN = {}


def shared(key, make):
    """What `make` returns, unless it has been made already for this key, by this process or another one of the run."""
    if key not in _KNOWN:
        _KNOWN[key] = _kept(key, make) if FOLDER in os.environ else make()
    return _KNOWN[key]


def _kept(key, make):
    path = Path(os.environ[FOLDER], sha256(repr(key).encode()).hexdigest())
    if path.exists():
        return pickle.loads(path.read_bytes())
    found = make()
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(found))
    unfinished.replace(path)
    return found


def of_these_rows(*given, **options):
    """`autopar.capture.capture` for the rows that are given (`these_rows`)."""
    with these_rows():
        return capture(*given, **options)


def these_rows():
    """Inside, models are captured for the rows that are given: whether a graph holds for others takes as long again to find.

    That is asked in tests/codegen/test_symbolic_batch.py and tests/capture/validity, of all small models and all forms of
    batches. A program that runs with the rows that it was compiled for shows nothing about others.
    """
    return mock.patch.object(pipeline, "_any_rows", return_value="not asked")


def of_file(model, example_inputs, **options):
    """`capture` of what a model file defines; the same words, whatever the file's folder, with the same inputs only once."""
    key = None if isinstance(model, nn.Module) else _key(model, example_inputs, options)
    make = lambda: capture(model, example_inputs, **options)  # noqa: E731
    return make() if key is None else shared(key, make)


def _key(model, example_inputs, options):
    """None where more than the file's own words may matter."""
    inputs = example_inputs() if callable(example_inputs) else example_inputs
    path = Path(inspect.getsourcefile(model))
    text = path.read_text()
    if set(re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE)) - {"torch", "functools"}:
        return None
    values = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return (
        path.name,
        text,
        model.__qualname__,
        *sorted(options.items()),
        *((key, _said(value)) for key, value in values),
    )


def _said(value):
    if not isinstance(value, torch.Tensor):
        return repr(value)
    numbers = "" if value.is_meta else sha256(value.contiguous().numpy().tobytes()).hexdigest()
    return str(value.dtype), str(value.device), tuple(value.shape), numbers
