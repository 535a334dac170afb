"""Jobs that fail: each ends within a time limit, with a status that is not 0 and the first cause last on the screen."""

import pytest
from compiled_folder import PROGRAM, run, write

pytestmark = pytest.mark.fault


def last(process):
    """The last block of what the user saw."""
    assert process.returncode != 0
    return process.stderr.strip().split("\nthe job ended ")[-1]


def in_forward(line):
    return PROGRAM.replace("def forward(p, x, y):\n", f"def forward(p, x, y):\n    {line}\n").replace(
        "import torch\n", "import time\nimport torch\n", 1
    )


def test_the_first_of_two_ranks_that_raise_ends_the_job_and_its_message_comes_last(tmp_path):
    line = "time.sleep(1.0 if GRID.rank == 0 else 0.0); raise RuntimeError(f'cause {GRID.rank}')"
    process = run(write(tmp_path, program=in_forward(line)))
    assert last(process).startswith("because rank 1 failed:\n")
    assert last(process).endswith("RuntimeError: cause 1")
    assert "program.py" in last(process)
