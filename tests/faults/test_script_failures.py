"""Errors that a user's own script does not catch: the job ends, the cause said once and last."""

import sys
from unittest import mock

import pytest
from spmd import mpiexec

from autopar.errors import CommError, ConfigError
from autopar.runtime.diagnostics import failure
from autopar.runtime.diagnostics.collective_errors import alike, tell_by

SCRIPT = """
import sys
import torch
from torch import nn
import autopar

model = nn.Sequential(nn.Linear(3, 4), nn.Flatten(0), nn.Softmax(0))
sys.stdout.write("begun\\n")
try:
    autopar.parallelize(model, (torch.ones(2, 3),), grid="2", solver="magic")
except autopar.errors.ConfigError:
    sys.stdout.write("caught\\n")
autopar.parallelize(model, (torch.ones(2, 3),), grid="2")
"""


@pytest.mark.fault
def test_what_all_ranks_refuse_is_said_once_last_and_without_a_traceback(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    done = mpiexec(2, [tmp_path / "train.py"])
    assert done.returncode == 1
    assert sorted(done.stdout.split()) == ["begun", "begun", "caught", "caught"]
    assert done.stderr.startswith("loss of sequential: no output is a scalar\n  rule: ")
    assert done.stderr.endswith("or name it with --loss\n")
    assert done.stderr.count("loss of sequential") == 1


class Rank:
    """A communicator that only ends the job."""

    size = 3

    def __init__(self, rank):
        self.rank = rank

    def abort(self, code):
        raise SystemExit(code)


@pytest.mark.parametrize(
    ("error", "first", "says", "begins"),
    [
        (alike(ConfigError("no such grid")), True, [0], "no such grid"),
        (tell_by(CommError("rank 1 has died"), 1), True, [1], "rank 1 has died"),
        (ValueError("bad row"), True, [0, 1, 2], "rank {}: ValueError: bad row"),
        (ValueError("bad row"), False, [], "rank {}: ValueError: bad row"),
    ],
)
def test_one_rank_speaks_and_the_others_wait_for_their_end(error, first, says, begins, capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    spoken = []
    for rank in range(3):
        failure.end_scripts(Rank(rank), lambda: first)
        with mock.patch("time.sleep") as slept, pytest.raises(SystemExit, match="1"):
            sys.excepthook(type(error), error, None)
        assert capsys.readouterr().err == begins.format(rank) + "\n"  # who has waited in vain speaks for itself
        if mock.call(failure._GRACE) not in slept.mock_calls:
            spoken.append(rank)
    assert spoken == says
