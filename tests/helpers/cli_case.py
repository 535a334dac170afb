"""What the tests of the command line share: small model files, and the command line run in this process."""

import contextlib
import io
import os
from unittest import mock

from shared_captures import of_file

from autopar.cli import main

NET = """import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x, y):
        h = F.relu(self.fc1(x))
        return F.mse_loss(self.fc2(h), y)


def model():
    return Net()


def example_inputs():
    return {"x": torch.zeros(8, 64), "y": torch.zeros(8, 64)}
"""

BLOCKS = """import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(32, 64)
        self.slim = nn.Linear(64, 32)

    def forward(self, x):
        h = torch.relu(self.wide(x))  # [bold red]not markup[/bold red] [/] :heart:
        return x + self.slim(h)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 32), nn.Tanh())
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x = self.head(x)
        for layer in self.layers:
            x = layer(x)
        return {"loss": x.square().mean(), "mean": x.mean()}


def model():
    return Net()


example_inputs = (torch.zeros(16, 8),)
"""


def run(*words, columns=None):
    """Run one command in this process. Returns its exit status and what it wrote to standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    width = {} if columns is None else {"COLUMNS": str(columns)}
    with (
        mock.patch.dict(os.environ, width),
        mock.patch("autopar.capture.capture", of_file),  # the tests bring the same few models
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if columns is None:
            os.environ.pop("COLUMNS", None)
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def done(*words, columns=None):
    """Run a command that must succeed without a word on standard error. Returns its standard output."""
    status, out, err = run(*words, columns=columns)
    assert (status, err) == (0, ""), err
    return out


def refused(*words, status=1):
    """Run a command that must be refused: one message in five parts, nothing else. Returns the message."""
    given, out, err = run(*words)
    assert given == status, (given, out, err)
    assert err.startswith("autopar: ")
    assert err.count("autopar: ") == 1
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[1:] if not line.startswith("  - ")] == ["  rule", "  fix"], err
    assert "Traceback" not in err
    return err


def write(folder, text=NET, name="net.py"):
    """Write a model file; returns its path."""
    (folder / name).write_text(text)
    return folder / name


def snapshot(folder):
    """Every file below a folder with its bytes, every folder with None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
