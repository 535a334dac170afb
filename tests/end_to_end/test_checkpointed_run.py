"""A run that was ended goes on through the command line, on its own grid and on another."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MLP = Path(__file__).parents[2] / "examples" / "mlp.py"


def autopar(*words):
    done = subprocess.run(
        [sys.executable, "-m", "autopar", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(text):
    return dict(re.findall(r"step (\d+)/\d+ +loss (\S+)", text))


@pytest.mark.zoo
def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    builds = {grid: str(tmp_path / f"build{grid}") for grid in ("2", "3")}
    for grid, build in builds.items():
        autopar("compile", str(MLP), "--grid", grid, "-o", build)
    saved = ("--balance", "off", "--checkpoint", str(tmp_path / "saved"))
    whole = losses(autopar("run", builds["2"], "--steps", "8", "--balance", "off"))
    autopar("run", builds["2"], "--steps", "4", *saved)
    again = losses(autopar("run", builds["2"], "--steps", "6", *saved, "--resume"))
    other = losses(autopar("run", builds["3"], "--steps", "8", *saved, "--resume"))
    assert again == {step: whole[step] for step in again}
    assert {step: float(loss) for step, loss in other.items()} == pytest.approx(
        {step: float(whole[step]) for step in other}, rel=1e-5
    )
    assert "whole" in autopar("checkpoint", "verify", str(tmp_path / "saved"))
