"""Jobs that are asked to stop: by a signal to one rank or to the launcher, by a second one, by the launcher's death."""

import signal

import pytest
from compiled_folder import run, write
from faulty_job import in_forward
from faulty_job import run as fault

pytestmark = pytest.mark.fault
LAUNCHER = "int(os.environ['AUTOPAR_LAUNCHER'].split()[1])"


def at_step(number, what):
    """The two-rank program, rank 1 of which does something in its forward of a step; steps take a while."""
    program = in_forward(f"STEPS.append(time.sleep(0.02)); len(STEPS) == {number} and GRID.rank == 1 and [{what}]")
    return program.replace('GRID = Grid("2")', 'GRID = Grid("2")\nSTEPS = []')


@pytest.mark.parametrize("target", [pytest.param("os.getpid()", marks=pytest.mark.zoo), LAUNCHER])
def test_a_signal_ends_all_ranks_after_one_step_with_status_85_and_a_checkpoint(tmp_path, target):
    program = at_step(3, f"os.kill({target}, signal.SIGTERM)")
    ended = run(write(tmp_path, program=program), "--steps", 300, "--checkpoint", tmp_path / "saved")
    assert ended.returncode == 85, ended.stderr
    (saved,) = (tmp_path / "saved").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert f"stopped    after step {step} of 300, by signal SIG" in ended.stdout
    assert step == 3 if target == "os.getpid()" else 3 <= step < 300


@pytest.mark.zoo
def test_a_second_signal_ends_the_job_at_once(tmp_path):
    kill = "os.kill(os.getpid(), signal.SIGTERM)"
    program = at_step(2, f"{kill}, time.sleep(1.1), {kill}, time.sleep(60)")
    ended = run(write(tmp_path, program=program), "--steps", 300, "--checkpoint", tmp_path / "saved")
    assert ended.returncode not in (0, 85)
    assert "a second signal, SIGTERM, ended the job at once" in ended.stderr
    assert not list((tmp_path / "saved").glob("step-*"))


@pytest.mark.zoo
def test_a_launcher_that_is_killed_leaves_no_rank(tmp_path):
    ended = fault(tmp_path, at_step(2, f"os.kill({LAUNCHER}, signal.SIGKILL), time.sleep(60)"), cold=True)
    assert ended.status == -signal.SIGKILL
    assert not ended.left
