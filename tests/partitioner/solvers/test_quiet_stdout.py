"""Standard output stays empty while the solver works, below Python too: results are printed there."""

import contextlib
import os

import highspy
from random_problems import random_problem

from autopar.partitioner.problem import NoChoice
from autopar.partitioner.solvers import highs
from autopar.partitioner.solvers.solve import solve


def test_the_solver_prints_nothing(capfd, monkeypatch):
    class Talks(highspy.Highs):
        def __init__(self):
            os.write(1, b"a banner\n")
            super().__init__()

    monkeypatch.setattr("highspy.Highs", Talks)
    made = []
    plain = highs._Quiet.createAndConfigureSolver
    monkeypatch.setattr(highs._Quiet, "createAndConfigureSolver", lambda self, lp: made.append(plain(self, lp)))
    for seed in range(100):
        with contextlib.suppress(NoChoice):
            solve(random_problem(seed), "ilp")
        if made:
            break
    assert made, "no linear program was solved"
    assert capfd.readouterr().out == ""
    os.write(1, b"restored")
    assert capfd.readouterr().out == "restored"
