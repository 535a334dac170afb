"""Capture a model that must be refused, and the user's line at which that must be said."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from autopar.capture import capture
from autopar.errors import CaptureError


class Net(nn.Module):
    """Layers for the forward functions below."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("table", torch.ones(4))


def refused(model, inputs=None, loss=None, live=False):
    inputs = {"x": torch.ones(6, 4)} if inputs is None else inputs
    with pytest.raises(CaptureError) as caught:
        capture(model() if live else model, inputs, name="net", loss=loss)
    text = str(caught.value)
    assert "\n  rule: " in text
    return text


def line_of(model, code):
    """``test_x.py:LINE: `code```, the place where a model says `code`."""
    lines, start = inspect.getsourcelines(model)
    offset = next(i for i, line in enumerate(lines) if code in line)
    return f"{Path(inspect.getfile(model)).name}:{start + offset}: `{code}`"
