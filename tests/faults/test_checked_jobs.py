"""Calls that do not fit together: in checked mode the ranks say so before they are made. Errors amid a backward pass."""

import pytest
from faulty_job import in_backward, in_forward, run

pytestmark = pytest.mark.fault
CHECK = {"AUTOPAR_CHECK": "1"}


def test_one_rank_makes_another_call(tmp_path):
    ended = run(tmp_path, in_forward("all_sum(x.sum(), RANKS) if GRID.rank == 0 else None"), **CHECK)
    assert ended.status == 1
    assert not ended.left
    assert ended.last.startswith("axis0: its ranks are in different calls\n  rule: ")
    assert "  - rank 0: all_sum at build/program.py:14, float32 []\n" in ended.last
    assert "  - rank 1: all_sum at build/program.py:16, float32 [4, 2]\n" in ended.last
    assert "  fix: " in ended.last
    assert "Traceback" not in ended.err


@pytest.mark.zoo  # tests/runtime/diagnostics/test_watched_comm.py compares shapes on simulated ranks
def test_one_rank_brings_another_shape(tmp_path):
    ended = run(tmp_path, in_forward("all_sum(x[GRID.rank :], RANKS)"), "mpiexec", **CHECK)
    assert ended.status == 1
    assert not ended.left
    assert "all_sum at build/program.py:14 over axis0: the sizes do not fit\n" in ended.err
    assert "  - rank 0: float32 [4, 3]\n  - rank 1: float32 [3, 3]\n" in ended.err
    assert ended.err.count("the sizes do not fit") == 1


@pytest.mark.zoo
def test_another_shape_is_named_by_the_launcher_even_where_nobody_has_compared(tmp_path):
    ended = run(tmp_path, in_forward("all_sum(x[2 * GRID.rank :], RANKS)"))
    assert ended.status != 0
    assert not ended.left
    assert "all_sum at build/program.py:14" in ended.err


def test_a_rank_that_fails_in_backward_while_gradients_are_summed(tmp_path):
    ended = run(tmp_path, in_backward("if GRID.rank == 1: raise RuntimeError('no gradient')", "x"))
    assert ended.status == 1
    assert not ended.left
    assert ended.last.startswith("the job ended because rank 1 failed:\n")
    assert ended.last.endswith("RuntimeError: no gradient")
    assert "program.py" in ended.last


@pytest.mark.zoo
def test_a_rank_that_exits_says_where(tmp_path):
    ended = run(tmp_path, in_forward("if GRID.rank == 1: sys.exit(3)"), "mpiexec")
    assert ended.status == 3
    assert not ended.left
    assert "sys.exit(3) in forward, " in ended.err
    assert "program.py:14\n    if GRID.rank == 1: sys.exit(3)" in ended.err


@pytest.mark.zoo  # test_divided_jobs.py kills one in mid-schedule
def test_a_rank_that_is_killed_was_last_seen_somewhere(tmp_path):
    line = "all_sum(x.sum(), RANKS); GRID.rank == 0 or os.kill(os.getpid(), signal.SIGKILL)"
    ended = run(tmp_path, in_forward(line), cold=True)  # mpiexec names its process
    assert ended.status != 0
    assert not ended.left
    assert "rank 1 was ended by SIGKILL (status 9), after all_sum at build/program.py:14" in ended.last


@pytest.mark.zoo
def test_a_variable_that_is_not_understood(tmp_path):
    ended = run(tmp_path, in_forward("pass"), "mpiexec", AUTOPAR_TIMEOUT="soon")
    assert ended.status != 0
    assert not ended.left
    assert "AUTOPAR_TIMEOUT: is 'soon'\n  rule: it is the number of seconds" in ended.err
