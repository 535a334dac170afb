"""Ranks that fail while boundaries move: each job ends, names who failed and where the others waited, and leaves nothing behind."""

import pytest
from faulty_job import CUT, place, run

pytestmark = pytest.mark.fault
WAITS = "rank 0 waits for rank 1 in Parallel.rebalance at "


def failing(line):
    """The program in which rank 1 meets this line in its second move."""
    return CUT.replace("FAULT", f"fault.calls = getattr(fault, 'calls', 0) + GRID.rank; fault.calls == 1 and {line}")


def waits():
    return WAITS + place(CUT, "parallel.rebalance")


@pytest.mark.zoo
def test_a_rank_that_is_killed_while_boundaries_move(tmp_path):
    ended = run(tmp_path, failing("os.kill(os.getpid(), signal.SIGKILL)"), cold=True)
    assert ended.status != 0
    assert not ended.left
    assert "rank 1 was ended by SIGKILL" in ended.err
    assert f"after Parallel.rebalance at {place(CUT, 'parallel.rebalance')}" in ended.err


@pytest.mark.zoo
def test_a_rank_that_is_stopped_while_boundaries_move(tmp_path):
    ended = run(tmp_path, failing("os.kill(os.getpid(), signal.SIGSTOP)"), cold=True, AUTOPAR_TIMEOUT="3")
    assert ended.status == 75
    assert not ended.left
    assert waits() in ended.err
    assert "rank 1 is stopped (process " in ended.err


@pytest.mark.zoo
def test_a_rank_that_raises_while_boundaries_move(tmp_path):
    ended = run(tmp_path, failing("sys.stdout.write('now') and [][0]"))
    assert ended.status != 0
    assert not ended.left
    assert "because rank 1 failed:" in ended.err
    assert ended.err.strip().endswith("IndexError: list index out of range")


@pytest.mark.zoo
def test_a_rank_that_does_not_move(tmp_path):
    program = CUT.replace("FAULT", "pass").replace(
        "            parallel.rebalance", "            GRID.rank and parallel.rebalance"
    )
    ended = run(tmp_path, program)
    assert ended.status != 0
    assert not ended.left
    assert f"rank 0: in Parallel.forward at {place(program, 'parallel(torch')}" in ended.err
    assert f"rank 1: in Parallel.rebalance at {place(program, 'GRID.rank and')}" in ended.err


@pytest.mark.zoo
def test_ranks_that_move_to_different_cuts(tmp_path):
    ended = run(tmp_path, CUT.replace("FAULT", "pass").replace("share, 1.0", "share + 0.1 * GRID.rank, 1.0"))
    assert ended.status != 0
    assert not ended.left
    assert "moving boundaries: the ranks do not move alike" in ended.err
    assert "rank 1: {'axis0': (0.0, 0.35, 1.0)}, 1 optimizers" in ended.err
