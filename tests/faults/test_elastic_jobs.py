"""Jobs that go on when ranks die: what starts them again, on how many ranks, and what does not."""

import re
from pathlib import Path

import pytest
import warm_launch  # noqa: F401  (its ranks are forked of one process)
from compiled_folder import PROGRAM, write
from warm_ranks import found_by, warm

from autopar.jobs import elastic, launch
from autopar.jobs.elastic import ElasticJob
from autopar.jobs.launch import JobEnd

pytestmark = pytest.mark.fault
DIES = """def forward(p, x, y):
    import os, pathlib, signal
    STEPS.append(1)
    here = pathlib.Path(__file__).parent
    if GRID.rank == 1 and len(STEPS) == 4 and not (here / "died").exists():
        (here / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def job(program, saved, most=3):
    words = ("--steps", "6", "--every", "2", "--checkpoint", str(saved), "--balance", "off")
    return ElasticJob(program.parent, 2, words, (), (), saved, most)


def test_a_job_goes_on_from_its_newest_checkpoint_when_a_rank_is_killed(tmp_path, monkeypatch, capfd):
    program = PROGRAM.replace("def forward(p, x, y):\n", DIES).replace('Grid("2")', 'Grid("2")\nSTEPS = []')
    path, asked = write(tmp_path, program=program), []
    cold = launch.command
    monkeypatch.setattr(launch, "command", lambda *words: warm(cold(*words)))
    for name, value in found_by().items():
        monkeypatch.setenv(name, value)

    def planned(ranks):
        asked.append(ranks)
        (tmp_path / "one").mkdir()
        alone = PROGRAM.replace('Grid("2")', 'Grid("1")')
        return write(tmp_path / "one", program=alone, changes={"grid": "1"}).parent

    assert elastic.run(job(path, tmp_path / "saved"), "program.py", planned) == 0
    said = capfd.readouterr()
    assert asked == [1]
    assert "elastic    1 rank died after step 3; start 1 of 3 again, on 1 rank" in said.err
    resumed = re.search(
        r"resumed .*, after step (\d)", said.out
    )  # the save of step 2 may be under way when the rank dies
    begun = int(resumed[1]) if resumed else 0
    assert begun in (0, 2)
    assert ("step 3 is done again" if begun == 2 else "steps 1 to 3 are done again") in said.out
    assert (tmp_path / "saved" / "step-00000006").is_dir()


@pytest.mark.parametrize(
    ("ends", "said", "starts"),
    [
        ([JobEnd(1, (), 5, told=True)], "", 1),
        ([JobEnd(9, (1,), None, told=False)], "no rank had begun to train", 1),
        ([JobEnd(9, (1,), 5, told=False), JobEnd(9, (0,), 5, told=False)], "died in step 6 for the second time", 2),
        ([JobEnd(9, (1,), 5, told=False), JobEnd(1, (), 7, told=True)], "a rank told of an error", 2),
        ([JobEnd(9, (1, 2), n, told=False) for n in (1, 2, 3)], "started again 2 times", 3),
        ([JobEnd(9, (), 5, told=False, stopped="signal SIGTERM")], "ended by signal SIGTERM", 1),
        ([JobEnd(9, (1,), 5, told=False), JobEnd(85, (), 9, told=False)], "", 2),
    ],
)
def test_what_is_started_again_and_what_is_not(tmp_path, monkeypatch, capsys, ends, said, starts):
    left, on = list(ends), []
    monkeypatch.setattr(elastic, "launch_once", lambda file, ranks, *_, **__: (on.append(ranks), left.pop(0))[1])
    one = ElasticJob(tmp_path, 8, (), (), (), tmp_path, 2)
    assert elastic.run(one, "program.py", lambda ranks: Path(tmp_path)) == ends[-1].status
    assert said in capsys.readouterr().err
    assert on == [8, 7, 6][:starts] if len(ends[0].dead) < 2 else [8, 6, 4]


def test_a_model_that_fits_no_fewer_ranks_ends_the_job(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(elastic, "launch_once", lambda *_, **__: JobEnd(9, (1,), 5, told=False))
    assert elastic.run(ElasticJob(tmp_path, 2, (), (), (), tmp_path, 3), "program.py", lambda ranks: None) == 9
    assert "cannot be compiled for 1 rank" in capsys.readouterr().err
