"""The oracle is the optimum: it agrees with simulating every assignment there is."""

import random
from itertools import product

import pytest

from autopar.partitioner.placement.assignment import assign, is_legal
from autopar.partitioner.placement.exhaustive import exhaustive
from autopar.partitioner.placement.judging import Judge
from benchmarks.placement.random_problems import random_problem


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_left_out(seed):
    problem, most = random_problem(random.Random(seed), 5)
    judge = Judge(problem, "auto")
    slots = range(most * len(problem.positions))
    assignments = {
        assign(problem, labels, [slot // most for slot in slots])
        for labels in product(slots, repeat=len(problem.calls))
    }
    tried = {each for each in assignments if each is not None and is_legal(problem, each, most)}
    best = min(map(judge.seconds, tried), default=float("inf"))
    optimum = exhaustive(problem, most, judge)
    assert optimum.proven
    assert optimum.makespan == pytest.approx(best)


def test_it_says_when_it_gives_up():
    problem, most = random_problem(random.Random(1), 12)
    assert not exhaustive(problem, most, Judge(problem, "auto"), tries=5).proven
