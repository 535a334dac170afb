"""`verify` finds a program that is right for the batch and mode it was compiled for, and wrong for others."""

import runpy
from pathlib import Path

import pytest

from autopar.cli import main as autopar
from autopar.runtime import simulate
from autopar.runtime.session import compiled_job
from autopar.runtime.verification import verify

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x, y):
        out = self.head(F.silu(self.norm(self.fc(x))))
        return {"total": F.mse_loss(out, y), "out": out}


def model():
    return Net()


def example_inputs():
    return {"x": torch.randn(8, 4), "y": torch.randn(8, 4)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("uses")
    (path / "model.py").write_text(MODEL)
    given = ["--grid", "2", "--loss", "total", "--return", "out", "--pin", "fc: b0@axis0", "--pin", "norm: n@axis0"]
    pins = ["--pin", "head: b0@axis0", "--pin", "loss: d0@axis0"]
    assert not autopar(["compile", str(path / "model.py"), *given, *pins, "-o", str(path / "build")])
    return path / "build"


def compared(folder):
    def rank():
        program = runpy.run_path(str(folder / "program.py"), run_name="program")["PROGRAM"]
        return verify._used(compiled_job.open_job(program, Path(folder) / "program.py", 0), 0)

    return simulate(2, rank)[0]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("", "", set()),
        ("p.batch", "8", {"fewer rows, float64"}),
        ("training=p.training", "training=True", {"evaluation, float64"}),
        ("return loss, out", "return loss, out + 1", {"fewer rows, float64", "evaluation, float64"}),
    ],
)
def test_what_is_wrong_for_other_batches_modes_and_outputs_is_found(folder, old, new, wrong):
    file = folder / "program.py"
    text = file.read_text()
    assert old in text
    try:
        file.write_text(text.replace(old, new) if old else text)
        found = compared(folder)
    finally:
        file.write_text(text)
    assert {one.case for one in found} == {"fewer rows, float64", "evaluation, float64"}
    assert {one.case for one in found if one.relative > one.tolerance} == wrong
