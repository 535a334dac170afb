"""`autopar run` is killed at random times, one rank or all of it, and goes on from the newest whole checkpoint: real processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from autopar.runtime.checkpoint import folders
from autopar.runtime.checkpoint.index import read_index
from autopar.runtime.checkpoint.load import Files, read_rows

pytestmark = [pytest.mark.fault, pytest.mark.zoo]
STEPS, MORE, CASES = 120, 10, 20
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 12))

    def forward(self, x, y):
        return (self.layers(x) - y).square().mean()


def model():
    return Net()


def example_inputs():
    return {"x": torch.zeros(12, 12), "y": torch.zeros(12, 12)}


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def batches():
    while True:
        yield {"x": torch.randn(12, 12), "y": torch.randn(12, 12)}
"""


def command(*words):
    return [sys.executable, "-m", "autopar", *map(str, words)]


def run(build, folder, steps, *more):
    common = ("--balance", "off", "--dtype", "float64", "--checkpoint", folder, "--every", "1")
    return command("run", build, "--steps", steps, *common, *more)


def ended(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Programs for two and three ranks, and the checkpoints of all steps of a run on two that nothing interrupts."""
    folder = tmp_path_factory.mktemp("builds")
    (folder / "net.py").write_text(MODEL)
    for ranks in ("2", "3"):
        ended(command("compile", folder / "net.py", "--grid", ranks, "-o", folder / ranks))
    ended(run(folder / "2", folder / "whole", STEPS + MORE, "--keep", "1000"))
    return folder


def ranks_of(process):
    """The processes below one, with whether they are ranks."""
    parents, found = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            number = int(entry.name)
            parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found[number] = (
                b"program.py" in (entry / "cmdline").read_bytes()
                and b"mpiexec" not in (entry / "cmdline").read_bytes().split(b"\0", 1)[0]
            )
    below = {process}
    while more := {number for number, parent in parents.items() if parent in below} - below:
        below |= more
    return {number: found[number] for number in below if number in found}


def values(path):
    """Every tensor of a checkpoint, whole."""
    index = read_index(path)
    with Files(path) as files:
        return {
            key: read_rows(one, key, tuple(((0, extent),) for extent in one.shape), files)
            for key, one in index.tensors.items()
        }


@pytest.mark.parametrize("seed", range(CASES))
def test_a_killed_run_goes_on(builds, tmp_path, seed):
    draw, folder = random.Random(seed), tmp_path / "saved"
    job = subprocess.Popen(
        run(builds / "2", folder, STEPS, "--keep", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not list(folder.glob("step-*")):
        assert job.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(draw.random())
    processes = ranks_of(job.pid)
    ranks = sorted(number for number, is_rank in processes.items() if is_rank)
    for number in [draw.choice(ranks)] if seed % 2 and ranks else processes:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    assert job.wait(60) != 0 or (folder / f"step-{STEPS:08d}").exists()
    whole = [int(path.name[5:]) for path, _, faults in folders.listed(folder) if not faults]
    assert whole
    step = max(whole)
    shutil.copytree(folder, tmp_path / "other")
    text = ended(run(builds / "2", folder, step + MORE, "--resume"))
    assert f"step-{step:08d}, after step {step}" in text
    name = f"step-{step + MORE:08d}"
    expected = read_index(builds / "whole" / name)
    assert read_index(folder / name).files == expected.files  # their hashes
    assert read_index(folder / name).scalars == expected.scalars
    if seed % 4 < 2:
        ended(run(builds / "3", tmp_path / "other", step + MORE, "--resume"))
        expected, found = values(builds / "whole" / name), values(tmp_path / "other" / name)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-12 * float(value.abs().max()))
