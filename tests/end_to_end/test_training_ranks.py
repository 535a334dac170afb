"""On MPI ranks: a training script of a user's, and the command line on the same model."""

from pathlib import Path

import pytest
from spmd import mpiexec

from autopar.cli.main import main

SCRIPT = Path(__file__).parent / "models" / "training_script.py"
MODEL = """
from training_script import Classifier, batch

def model():
    return Classifier()

def example_inputs():
    x, labels = batch(0, 8)
    return x.float(), labels

def batches():
    for step, rows in enumerate((8, 3)):
        x, labels = batch(step, rows)
        yield x.float(), labels
"""


@pytest.mark.spmd
def test_a_script_trains_as_the_sequential_model_does_and_what_all_ranks_refuse_is_said_once_and_last():
    """It evaluates, and meets smaller batches. An error that all ranks raise and nobody catches comes without a traceback."""
    done = mpiexec(2, [SCRIPT], cold=True)  # by processes that hash otherwise
    assert sorted(done.stdout.splitlines()) == [*["caught"] * 2, *[f"rank {rank} agrees" for rank in range(2)]], (
        done.stderr
    )
    assert done.returncode == 1
    assert done.stderr.startswith("loss of sequential: no output is a scalar\n  rule: ")
    assert done.stderr.endswith("or name it with --loss\n")
    assert done.stderr.count("loss of sequential") == 1


@pytest.mark.zoo
@pytest.mark.spmd
def test_verify_says_what_it_compares_of_a_model_with_outputs(tmp_path, monkeypatch):
    (tmp_path / "training_script.py").write_text(SCRIPT.read_text())
    (tmp_path / "model.py").write_text(MODEL)
    given = ["compile", "model.py", "--grid", "2", "--loss", "1", "--return", "0", "--pin", "wide: b0@axis0"]
    monkeypatch.chdir(tmp_path)
    assert main([*given, "-o", "build"]) == 0
    program = (tmp_path / "build" / "program.py").read_text()
    assert 'OUTPUTS = {"0": [' in program
    done = mpiexec(2, ["-m", "autopar.runtime.verification.verify", "build", "--steps", "2"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert {"fewer", "evaluation,"} <= {line.split()[1] for line in compared}
