"""Jobs whose replicas draw micro-batches from a queue, one of which fails in one of them: it is named, and nothing hangs."""

import pytest
from faulty_job import QUEUED, place, run

pytestmark = [pytest.mark.fault, pytest.mark.zoo]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_in_mid_queue(tmp_path, rank):
    """Rank 0 has the number that all draw from."""
    program = QUEUED.replace(
        "FAULT", f"GRID.rank == {rank} and len(CALLS) == 3 and os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = run(tmp_path, program, cold=True)
    assert ended.status != 0
    assert not ended.left
    assert f"rank {rank} was ended by SIGKILL" in ended.err
    assert "after the start of micro-batch " in ended.err
    assert f" of 4 at {place(program, 'def forward')}" in ended.err


def test_a_rank_that_is_stopped_in_mid_queue(tmp_path):
    program = QUEUED.replace("FAULT", "GRID.rank == 1 and len(CALLS) == 3 and os.kill(os.getpid(), signal.SIGSTOP)")
    ended = run(tmp_path, program, cold=True, AUTOPAR_TIMEOUT="3")
    assert ended.status == 75
    assert not ended.left
    assert "rank 0 waits for rank 1 in Parallel.forward at" in ended.err
    assert "rank 1 is stopped" in ended.err
    assert "after the start of micro-batch " in ended.err


def test_a_rank_that_raises_in_mid_queue(tmp_path):
    program = QUEUED.replace("FAULT", "assert GRID.rank == 0 or len(CALLS) < 3, 'broken'")
    ended = run(tmp_path, program, cold=True)
    assert ended.status == 1
    assert not ended.left
    assert "AssertionError: broken" in ended.last
