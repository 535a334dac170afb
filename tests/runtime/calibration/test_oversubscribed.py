"""The clock for ranks that share cores: a call counts by what it adds to a loop, on the slowest rank."""

import time
from itertools import cycle

import pytest
import torch

from autopar.runtime.calibration import oversubscribed, run
from autopar.runtime.calibration.oversubscribed import OversubscribedTimer
from autopar.runtime.calibration.timer import Pace
from autopar.runtime.transport.threads import simulate
from autopar.runtime.transport.world import default_world

PACE = Pace(repeats=3, cleared=1 << 10, most=1024, patience=0.0)


class Counted:
    """A clock of whole seconds: a call of `work` takes them."""

    def __init__(self):
        self.now = 0.0

    def work(self, seconds):
        self.now += seconds


def test_a_call_counts_by_what_it_adds(monkeypatch):
    ticks = Counted()
    monkeypatch.setattr(oversubscribed.time, "perf_counter", lambda: ticks.now)

    def measured(call):
        (found,) = simulate(1, lambda: OversubscribedTimer(default_world(), PACE).time(call))
        return found

    assert measured(lambda: ticks.work(0.25)) == pytest.approx(2 * (0.25,))
    assert measured(lambda: ticks.work(0.002)) == pytest.approx(3 * (0.002,))
    uneven = cycle((0.001, 0.003))
    assert measured(lambda: ticks.work(next(uneven))) == pytest.approx(3 * (0.002,))
    assert measured(lambda: None) == 3 * (oversubscribed._LEAST,)


def test_backward_counts_without_forward_and_without_the_engine(monkeypatch):
    ticks = Counted()
    monkeypatch.setattr(oversubscribed.time, "perf_counter", lambda: ticks.now)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ticks.work(7.0)
            return x + y

        @staticmethod
        def backward(ctx, grad):
            ticks.work(0.5)
            return grad, 2 * grad

    x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
    (found,) = simulate(1, lambda: OversubscribedTimer(default_world(), PACE).adjoint(Slow.apply, x, y))
    assert found == pytest.approx(2 * (0.5,))


def test_the_slowest_rank_counts_and_all_know_it():
    def ranks():
        clock = OversubscribedTimer(default_world(), PACE)
        return clock.time(lambda: time.sleep(0.02 * default_world().rank))

    first, second = simulate(2, ranks)
    assert first == second
    assert min(first) > 0.01


def test_a_calibration_takes_it_where_ranks_outnumber_cores(monkeypatch):
    taken = []
    monkeypatch.setattr(run, "cores", lambda world, places: 1)
    monkeypatch.setattr(run, "OversubscribedTimer", lambda *given: taken.append(given) or OversubscribedTimer(*given))
    found = simulate(2, lambda: run.measure(default_world(), [0, 0], PACE, lambda text: None))
    assert len(taken) == 2
    assert {one.place for one in found[0].moved} == {"local", "intra"}
    assert found[0].cores == 1
