"""Jobs whose graph is divided over positions, and what is said where one of these fails: the action, the micro-batch, the edge."""

import pytest
from faulty_job import DIVIDED, MOVING, run

pytestmark = pytest.mark.fault
LATE = "upper.calls = getattr(upper, 'calls', 0) + 1"  # the second micro-batch of the second step


def test_a_rank_that_is_killed_in_mid_schedule(tmp_path):
    fault = f"{LATE}; upper.calls == 4 and os.kill(os.getpid(), signal.SIGKILL)"
    ended = run(tmp_path, DIVIDED.replace("FAULT", fault), cold=True)
    assert ended.status != 0
    assert not ended.left
    assert "rank 0 was ended by SIGKILL" in ended.err
    assert "after the start of F0.1 (lower) at build/program.py:12" in ended.err


@pytest.mark.zoo
def test_a_rank_that_is_stopped_in_mid_schedule(tmp_path):
    fault = f"{LATE}; upper.calls == 4 and os.kill(os.getpid(), signal.SIGSTOP)"
    ended = run(tmp_path, DIVIDED.replace("FAULT", fault), cold=True, AUTOPAR_TIMEOUT="3")
    assert ended.status == 75
    assert not ended.left
    assert "rank 1 waits for rank 0 in receive h of micro-batch 1 for F1.1 (upper)" in ended.err
    assert "rank 0 is stopped" in ended.err


@pytest.mark.zoo
def test_a_rank_that_is_killed_while_segments_move(tmp_path):
    ended = run(tmp_path, MOVING.replace("FAULT", "os.kill(os.getpid(), signal.SIGKILL)"), cold=True)
    assert ended.status != 0
    assert not ended.left
    assert "rank 0 was ended by SIGKILL" in ended.err
    assert "after Parallel.move_segments at build/program.py:44" in ended.err


@pytest.mark.zoo
def test_a_rank_that_is_stopped_while_segments_move(tmp_path):
    fault = "os.kill(os.getpid(), signal.SIGSTOP)"
    ended = run(tmp_path, MOVING.replace("FAULT", fault), cold=True, AUTOPAR_TIMEOUT="3")
    assert ended.status == 75
    assert not ended.left
    assert "rank 1 waits for rank 0 in Parallel.move_segments at build/program.py:44" in ended.err
    assert "rank 0 is stopped" in ended.err
