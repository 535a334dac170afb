"""What stalls add to a step: at least the mean of one rank, more where ranks wait for each other, and less with a queue."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import autopar
from autopar.costmodel.timeline import Task
from autopar.ir.grid import GridShape
from autopar.ir.machine import load
from autopar.planning.stalls.expected_step import stalled_seconds

MACHINE = replace(load("cpu"), stall_rate=5.0, stall_seconds=0.05)
ONE, TWO = GridShape.parse("1"), GridShape.parse("2")


def step(seconds, exchanges=1):
    parts = [Task("a", "forward", seconds / exchanges), Task("x", "communication", 0.0, axes=(0,))] * exchanges
    return (*parts, Task("sum", "gradients", 0.01, axes=(0,)), Task("u", "update", 0.01))


@pytest.mark.parametrize("seconds", [0.05, 2.0])
def test_one_rank_is_stalled_for_the_mean_and_more_ranks_for_more(seconds):
    alone = stalled_seconds(step(seconds), ONE, MACHINE)
    assert alone == pytest.approx((seconds + 0.01) * 0.25, rel=0.05)
    assert alone < stalled_seconds(step(seconds), TWO, MACHINE) < stalled_seconds(step(seconds, 500), TWO, MACHINE)
    assert stalled_seconds(step(seconds, 500), TWO, MACHINE) == pytest.approx(2 * alone, rel=0.05)
    assert stalled_seconds(step(seconds), TWO, load("cpu")) == 0.0


def test_a_queue_shares_what_stalls_cost():
    queue = GridShape.parse("queue:2")
    apart = stalled_seconds(step(0.5), TWO, MACHINE)
    own = [task for task in step(0.5) if task.kind != "communication"]
    few, many = (stalled_seconds(own, queue, MACHINE, count) for count in (2, 32))
    assert 0.5 * 0.25 < many < few
    assert many < 0.85 * apart
    assert few == pytest.approx(apart, rel=0.1)


def test_a_queue_is_found_where_stalls_make_it_pay():
    model, inputs = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)), torch.zeros(4096, 64)
    model.forward = lambda x: nn.Sequential.forward(model, x).square().mean()
    steady = autopar.compile(model, (inputs,), grid="auto", ranks=2)
    stalled = replace(MACHINE, stall_rate=20.0, stall_seconds=4 * steady.plan.predicted.seconds)
    found = steady.replan(grid="auto", ranks=2, machine=stalled)
    seconds = {tried.grid: tried.seconds for tried in found.grids}
    assert [tried.grid for tried in steady.grids] == ["2", "stage:2"][: len(steady.grids)]
    assert "queue:2" in seconds
    assert found.plan.grid == min(seconds, key=lambda grid: seconds[grid])
    assert found.plan.predicted.stalls > 0
