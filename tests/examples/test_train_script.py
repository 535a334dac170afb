"""The whole training script of examples/train.py: it learns, goes on from where it was, and does so on other ranks."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from autopar.runtime import simulate

PATH = Path(__file__).resolve().parents[2] / "examples" / "train.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_example", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_and_goes_on_from_its_checkpoint(script, tmp_path):
    """A second epoch after one is that of two, to the bit; on one rank it is the same but for rounding."""

    def run(ranks, folder, epochs):
        return simulate(ranks, lambda: script.main(["--epochs", str(epochs), "--folder", str(folder)]))[0]

    whole, digits = run(2, tmp_path / "whole", 2)
    run(2, tmp_path / "parts", 1)
    shutil.copytree(tmp_path / "parts", tmp_path / "alone")
    assert run(2, tmp_path / "parts", 2) == (whole, digits)
    alone, _ = run(1, tmp_path / "alone", 2)
    assert alone[0] == whole[0]
    assert alone[1][:3] == pytest.approx(whole[1][:3], rel=1e-3)
    assert whole[1][3] > 0.75
    labels = script.datasets()[1][:][1].tolist()
    assert sum(a == b for a, b in zip(digits, labels, strict=True)) == round(whole[1][3] * script.HELD_BACK)
    lines = (tmp_path / "whole/metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,held_back_loss,accuracy"
    assert len(lines) == 3
