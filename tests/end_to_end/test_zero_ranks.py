"""ZeRO by itself: under a limit that data parallelism breaks, parameters are stored in parts, and two ranks train as one does."""

import pytest
from shared_captures import of_file
from spmd import mpiexec

import autopar
from autopar.cli.main import main

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(16, 512)
        self.slim = nn.Linear(512, 16)

    def forward(self, x, y):
        return F.mse_loss(self.slim(torch.tanh(self.wide(x))), y)


model = Net


def example_inputs():
    return {"x": torch.randn(64, 16), "y": torch.randn(64, 16)}
"""
VERIFY = """
import sys
from autopar.runtime.verification.verify import main

for folder in sys.argv[1:]:
    main([folder, "--steps", "3"])
    sys.stdout.write("verified\\n")
"""
BATCH = ["--pin", "wide: b0@axis0", "--pin", "slim: b0@axis0", "--pin", "tanh: d0@axis0"]


@pytest.mark.zoo
@pytest.mark.spmd
def test_parameters_in_parts_train_as_the_sequential_model(tmp_path, monkeypatch):
    """By itself, and as a baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autopar.capture.capture", of_file)
    (tmp_path / "model.py").write_text(MODEL)
    assert main(["compile", "model.py", "--grid", "2", "--plan", "data", "-o", "data"]) == 0
    data = autopar.load_plan("data")
    assert {one.layouts for one in data.parameters} == {("copied",)}
    assert main(["compile", "model.py", "--grid", "2", "--plan", "zero", "-o", "zero"]) == 0
    peaks = autopar.load_plan("zero").predicted.bytes, data.predicted.bytes
    assert peaks[0] < peaks[1]
    limit = str(sum(peaks) // 2)
    assert main(["compile", "model.py", "--grid", "2", "--plan", "data", "--memory", limit, "-o", "data"]) == 1
    for folder, given in (("itself", BATCH), ("baseline", ["--plan", "zero"])):
        assert main(["compile", "model.py", "--grid", "2", "--memory", limit, *given, "-o", folder]) == 0
        plan = autopar.load_plan(folder)
        assert "shard 0" in {one.layouts[0] for one in plan.parameters}
        assert plan.predicted.bytes <= int(limit)
    done = mpiexec(2, ["-c", VERIFY, "itself", "baseline"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert done.stdout.count("verified") == 4  # two folders, two ranks
