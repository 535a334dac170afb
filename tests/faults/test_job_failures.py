"""Jobs that fail: each ends within a time limit, with a status that is not 0 and the first cause last on the screen."""

import pytest
from compiled_folder import MODEL, PROGRAM, run, write

pytestmark = pytest.mark.fault


def last(process):
    """The last block of what the user saw."""
    assert process.returncode != 0
    return process.stderr.strip().split("\nthe job ended ")[-1]


def in_forward(line):
    return PROGRAM.replace("def forward(p, x, y):\n", f"def forward(p, x, y):\n    {line}\n").replace(
        "import torch\n", "import time\nimport torch\n", 1
    )


def test_a_rank_that_raises_ends_the_job_and_its_message_comes_last(tmp_path):
    program = write(tmp_path, program=in_forward('if GRID.rank == 1: raise RuntimeError("the sky has fallen")'))
    process = run(program)
    assert last(process).startswith("because rank 1 failed:\n")
    assert last(process).endswith("RuntimeError: the sky has fallen")
    assert "program.py" in last(process)


def test_the_first_of_two_causes_is_repeated(tmp_path):
    line = "time.sleep(1.0 if GRID.rank == 0 else 0.0); raise RuntimeError(f'cause {GRID.rank}')"
    process = run(write(tmp_path, program=in_forward(line)))
    assert last(process).endswith("RuntimeError: cause 1")


def test_another_number_of_ranks(tmp_path):
    process = run(write(tmp_path), ranks=3)
    assert process.returncode != 0
    assert "grid 2: needs 2 ranks; MPI reports 3" in process.stderr


def test_a_corrupted_plan_is_told_once_and_without_a_traceback(tmp_path):
    program = write(tmp_path)
    plan = program.parent / "plan.json"
    plan.write_text(plan.read_text()[:200])
    process = run(program)
    assert process.returncode == 1
    assert "damaged: not JSON" in process.stderr
    assert process.stderr.strip().splitlines()[-1].startswith("  fix: compile the model again")
    assert "Traceback" not in process.stderr


def test_an_edited_program_runs_and_is_noted(tmp_path):
    program = write(tmp_path)
    program.write_text(PROGRAM.replace("/ 8", "/ 4"))
    (tmp_path / "model.py").write_text(MODEL + "\n")
    process = run(program, "--steps", 2)
    assert process.returncode == 0
    assert "note: program.py was edited" in process.stdout
    assert "note: model.py has changed" in process.stdout
