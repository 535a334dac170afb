"""Steps whose micro-batches are drawn: no work is lost, nobody idles while there is some, and what all ranks do fills the time."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel.rank_views import rounds
from autopar.costmodel.timeline import Task, simulate
from autopar.ir.grid import GridShape
from autopar.ir.machine import RankClass, load
from autopar.planning.stalls.queue_timeline import QueueNoise, drawn, simulate_queue

SECONDS = st.integers(1, 40)


@settings(max_examples=50)
@given(st.integers(1, 4).flatmap(lambda r: st.lists(st.lists(SECONDS, min_size=7, max_size=7), min_size=r, max_size=r)))
def test_every_micro_batch_is_drawn_once_and_the_last_ends_within_one_of_the_mean_load(seconds):
    step = drawn(7, seconds)
    assert sorted(number for every in step.draws for number, _, _ in every) == list(range(7))
    for replica, every in enumerate(step.draws):
        assert [end - start for _, start, end in every] == [seconds[replica][number] for number, _, _ in every]
        ends = [0.0, *(end for _, _, end in every)]
        assert [start for _, start, _ in every] == ends[:-1]
        assert step.end - ends[-1] <= max(map(max, seconds)), "it might have drawn one more"


def tasks(microbatches, replicas):
    rounds = math.ceil(microbatches / replicas)
    inside = [Task("a", "forward", 2.0 * rounds), Task("x", "communication", 0.5 * rounds, axes=(0,))]
    return (*inside, Task("a", "backward", 3.0 * rounds), Task("sum", "gradients", 0.7), Task("u", "update", 0.3))


def test_replicas_that_are_as_fast_take_what_is_predicted():
    grid = GridShape.parse("queue:2x3")
    found = simulate_queue(tasks(7, 2), grid, 7, 4, QueueNoise({}), watch=(0, 5))
    assert found.seconds == pytest.approx(4 * 5.5 + 1.0)
    assert found.seconds == pytest.approx(simulate(tasks(7, 2)).seconds)
    assert sorted({round(float(waited), 9) for waited in found.waiting}) == [0.0, 5.5]
    assert {rank: max(event.end for event in events) for rank, events in found.events.items()} == {
        rank: pytest.approx(found.seconds) for rank in (0, 5)
    }


@settings(max_examples=25, deadline=None)
@given(st.floats(1.0, 4.0), st.sampled_from([0.0, 0.3]), st.integers(1, 3))
def test_a_slow_replica_draws_fewer_and_the_time_of_every_rank_is_accounted_for(factor, jitter, steps):
    grid = GridShape.parse("queue:2x2")
    found = simulate_queue(tasks(12, 2), grid, 12, 6, QueueNoise({2: factor}, jitter), steps=steps)
    together = found.compute + found.communication + found.exposed + found.waiting
    np.testing.assert_allclose(together, sum(found.steps), rtol=1e-9)
    assert (found.waiting > -1e-9).all()
    if not jitter:
        one, slow = 5.5, 0.5 + 5.0 * factor
        best = 12 / (1 / one + 1 / slow)
        assert best - 1e-9 <= found.seconds - 0.7 - 0.3 * factor <= best + slow


def test_a_step_lasts_for_as_many_micro_batches_as_the_last_replica_takes():
    cpu = load("cpu")
    half = replace(cpu, ranks=(RankClass(ranks="2-3", speed=0.5),))
    for text, equal, unequal in (("queue:2x2", 4, 6), ("queue:4", 2, 3), ("2x2", 8, 8)):
        grid = GridShape.parse(text)
        assert (rounds(cpu, grid, 8), rounds(half, grid, 8)) == (equal, unequal)
