"""Ranks that leave others waiting: each job ends, says who waited for whom in which line, and leaves no process behind."""

import signal

import pytest
from faulty_job import PROGRAM, in_backward, in_forward, interrupted, place, run

pytestmark = pytest.mark.fault
STOP = "os.kill(os.getpid(), signal.SIGSTOP)"
LIMIT = {"AUTOPAR_TIMEOUT": "4"}


def test_a_rank_that_is_stopped_where_another_waits_for_its_gradients(tmp_path):
    program = in_backward(f"if GRID.rank == 1: {STOP}", "h")
    ended = run(tmp_path, program, "mpiexec", cold=True, **LIMIT)
    assert ended.status == 75
    assert not ended.left
    assert "rank 0 waits for rank 1 in wait for sum of gradients at training/train.py" in ended.err
    assert "rank 1 is stopped (process " in ended.err
    assert f"after all_sum at {place(program, 'return all_sum')}" in ended.err
    assert "last calls of rank 1:" in ended.last


def test_a_rank_that_leaves_a_call_out(tmp_path):
    call = "all_sum(F.linear(h, p.fc2.weight), RANKS)"
    line = f"({call} if GRID.rank == 0 else F.linear(h, p.fc2.weight))"
    program = PROGRAM.replace(call, line)
    ended = run(tmp_path, program)
    assert ended.status == 75
    assert not ended.left
    assert "and would wait for ever" in ended.err
    assert f"rank 0 waits for rank 1 in all_sum at {place(program, line)}, float32 [4, 2], over axis0" in ended.err
    assert f"\n      return (({line}"[:90] in ended.err
    assert "rank 1 waits for rank 0 in " in ended.err
    assert "a rank has left out a call, or made one too many, near these lines" in ended.err


def test_a_rank_that_computes_is_not_accused(tmp_path):
    ended = run(tmp_path, in_forward("all_sum(x.sum(), RANKS); time.sleep(60 * GRID.rank)"), AUTOPAR_TIMEOUT="2")
    assert ended.status == 75
    assert not ended.left
    assert "rank 1 is computing, after all_sum at build/program.py:14" in ended.err
    assert "if rank 1 only needs longer, set AUTOPAR_TIMEOUT to more seconds" in ended.err


@pytest.mark.zoo
def test_a_rank_that_comes_to_the_end_alone(tmp_path):
    ended = run(tmp_path, in_forward("if GRID.rank == 1: sys.exit(0)"), "mpiexec")
    assert ended.status == 75
    assert not ended.left
    assert "rank 1 has ended, after " in ended.err
    assert "look for why rank 1 came to the end of the program first" in ended.err


@pytest.mark.zoo
def test_a_rank_that_vanishes_with_status_0(tmp_path):
    ended = run(tmp_path, in_forward("all_sum(x.sum(), RANKS); GRID.rank == 0 or os._exit(0)"), cold=True)
    assert ended.status != 0
    assert not ended.left
    assert "rank 1: after all_sum at build/program.py:14" in ended.last or "rank 1 is gone" in ended.err


@pytest.mark.zoo
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_from_outside_leaves_nothing_though_a_rank_is_stopped(tmp_path, number):
    line = f"print('ready', flush=True); GRID.rank == 0 or {STOP}; time.sleep(60)"
    ended = interrupted(tmp_path, in_forward(line), number)
    assert ended.status != 0
    assert not ended.left
    assert "the job was ended by" in ended.last


def test_an_interrupt_of_mpiexec_leaves_nothing(tmp_path):
    """The status is mpiexec's own: MPICH's has 0 now and then after a second interrupt."""
    ended = interrupted(tmp_path, in_forward("print('ready', flush=True); time.sleep(60)"), signal.SIGINT, "mpiexec")
    assert not ended.left
