"""Jobs that fail: each ends within a time limit, with a status that is not 0 and the first cause last on the screen."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from compiled_folder import MODEL, PROGRAM, run, write

pytestmark = pytest.mark.fault


def last(process):
    """The last block of what the user saw."""
    assert process.returncode != 0
    return process.stderr.strip().split("\nthe job ended ")[-1]


def in_forward(line):
    return PROGRAM.replace("def forward(p, x, y):\n", f"def forward(p, x, y):\n    {line}\n").replace(
        "import torch\n", "import os, signal, sys, time\nimport torch\n", 1
    )


def test_a_rank_that_raises_ends_the_job_and_its_message_comes_last(tmp_path):
    program = write(tmp_path, program=in_forward('if GRID.rank == 1: raise RuntimeError("the sky has fallen")'))
    process = run(program)
    assert last(process).startswith("because rank 1 failed:\n")
    assert last(process).endswith("RuntimeError: the sky has fallen")
    assert "program.py" in last(process)


def test_a_rank_that_exits_ends_the_job(tmp_path):
    assert run(write(tmp_path, program=in_forward("if GRID.rank == 1: sys.exit(3)"))).returncode != 0


def test_the_first_of_two_causes_is_repeated(tmp_path):
    line = "time.sleep(1.0 if GRID.rank == 0 else 0.0); raise RuntimeError(f'cause {GRID.rank}')"
    process = run(write(tmp_path, program=in_forward(line)))
    assert last(process).endswith("RuntimeError: cause 1")


def test_a_killed_rank_ends_the_job_and_is_named(tmp_path):
    process = run(write(tmp_path, program=in_forward("if GRID.rank == 1: os.kill(os.getpid(), signal.SIGKILL)")))
    assert "because rank 1 was killed" in process.stderr


def test_another_number_of_ranks(tmp_path):
    process = run(write(tmp_path), ranks=3)
    assert process.returncode != 0
    assert "grid 2: needs 2 ranks; MPI reports 3" in process.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged: not JSON"),
        ("[]", "damaged: it holds a list"),
        ('{"version": 9}', "schema version 9"),
        ('{"version": 1, "autopar": "0.0.0"}', "compiled by autopar 0.0.0"),
    ],
)
def test_a_plan_that_is_damaged_or_of_another_version(tmp_path, text, said):
    program = write(tmp_path)
    (program.parent / "plan.json").write_text(text)
    process = run(program)
    message = process.stderr.strip().splitlines()
    assert process.returncode == 1
    assert said in process.stderr
    assert message[-1].startswith("  fix: compile the model again")
    assert "Traceback" not in process.stderr


def test_a_plan_without_the_file(tmp_path):
    program = write(tmp_path)
    (program.parent / "plan.json").unlink()
    assert "plan.json stands beside program.py" in run(program).stderr


def test_ranks_that_read_different_files(tmp_path):
    program = write(tmp_path)
    (program.parent / "plan.json").write_text(json.dumps(json.loads((program.parent / "plan.json").read_text()), indent=3))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = write(elsewhere)
    text = PROGRAM.replace("main(PROGRAM, __file__)", f"main(PROGRAM, __file__ if GRID.rank else {str(other)!r})")
    program.write_text(text)
    process = run(program)
    assert process.returncode == 1
    assert "the ranks do not agree" in process.stderr
    assert process.stderr.count("plan is ") >= 2


def test_an_edited_program_runs_and_is_noted(tmp_path):
    program = write(tmp_path)
    program.write_text(PROGRAM.replace("/ 8", "/ 4"))
    (tmp_path / "model.py").write_text(MODEL + "\n")
    process = run(program, "--steps", 2)
    assert process.returncode == 0
    assert "note: program.py was edited" in process.stdout
    assert "note: model.py has changed" in process.stdout


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        (MODEL, ["--step", "3"], "unknown option --step; did you mean '--steps'?"),
        (MODEL, ["--steps", "many"], "invalid int value"),
        (MODEL.replace("torch.randn(4, 3,", "torch.randn(6, 3,"), [], "x has shape (6, 3), compiled for (4, 3)"),
        (MODEL.replace("range(3)", "range(0)"), [], "batches() yields nothing"),
        (MODEL.replace("nn.Linear(5, 2)", "nn.Linear(5, 3)"), [], "fc2.weight has shape (3, 5), the model's is (2, 5)"),
        (MODEL.replace("lr=0.05", "lr=-1"), [], "Invalid learning rate"),
        (MODEL.replace("def model()", "def mode()"), [], "does not define model; did you mean 'mode'?"),
    ],
)
def test_mistakes_are_told_once(tmp_path, model, arguments, said):
    process = run(write(tmp_path, model=model), *arguments)
    assert process.returncode == 1
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_nothing_half_written_where_saving_fails(tmp_path):
    process = run(write(tmp_path), "--steps", 1, "--save", tmp_path / "missing" / "out.safetensors")
    assert process.returncode == 1
    assert "failed on rank 0 of 2" in process.stderr
    assert not (tmp_path / "missing").exists()
