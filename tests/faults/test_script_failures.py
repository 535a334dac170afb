"""Errors that a user's own script does not catch: the job ends, the cause said once and last.

On real ranks `end_to_end/test_training_ranks` sees it.
"""

import sys
from unittest import mock

import pytest

from autopar.errors import CommError, ConfigError
from autopar.runtime.diagnostics import failure
from autopar.runtime.diagnostics.collective_errors import alike, tell_by


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
