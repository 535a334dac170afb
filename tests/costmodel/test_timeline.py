"""The timeline of a step: lanes, waiting, what hides, and what a slow rank does to the others."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costmodel.timeline import Task, simulate

SHAPE = (2, 3)
SIZE = math.prod(SHAPE)
SECONDS = st.one_of(st.just(0.0), st.floats(1e-6, 10.0))
AXES = st.sampled_from([(), (0,), (1,), (0, 1)])


def exchange(seconds, axes, hinders, near):
    return Task("x", "communication", seconds, axes=axes, hinders=hinders, near=near and len(axes) == 1)


TASK = st.one_of(
    st.builds(Task, st.just("f"), st.sampled_from(["forward", "backward"]), SECONDS),
    st.builds(exchange, SECONDS, AXES, st.booleans(), st.booleans()),
    st.builds(
        lambda here, hidden, axes: Task("bucket", "gradients", here, hidden, axes=axes),
        SECONDS, SECONDS, AXES.filter(bool),
    ),
)  # fmt: skip
STEPS = st.tuples(st.lists(TASK, max_size=14), SECONDS).map(lambda pair: [*pair[0], Task("update", "update", pair[1])])
SLOW = st.dictionaries(st.integers(0, SIZE - 1), st.floats(0.25, 4.0), max_size=2)
JITTER = st.sampled_from([0.0, 0.1, 0.5])


def run(tasks, **options):
    return simulate(tasks, SHAPE, watch=range(SIZE), **options)


def lane(events, name):
    return sorted((one for one in events if one.lane == name), key=lambda one: one.start)


def spent(tasks, *kinds):
    return sum(task.seconds for task in tasks if task.kind in kinds)


@settings(max_examples=50, deadline=None)
@given(STEPS, SLOW, JITTER)
def test_lanes_never_overlap_and_fill_the_step(tasks, slow, jitter):
    found = run(tasks, slow=slow, jitter=jitter, seed=1)
    ends = [0.0]
    for rank in range(SIZE):
        for name in ("compute", "communication"):
            events = lane(found.events[rank], name)
            assert all(one.start < one.end for one in events)
            assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(events))
            ends += [one.end for one in events]
        compute = lane(found.events[rank], "compute")
        assert all(abs(a.end - b.start) < 1e-9 for a, b in itertools.pairwise(compute)), "a gap"
        assert sum(one.end - one.start for one in compute if one.kind == "gradients") <= found.exposed[rank] + 1e-9
    assert found.seconds == pytest.approx(max(ends), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(STEPS, SLOW, JITTER)
def test_a_step_is_at_least_each_lane_and_at_most_all_of_it(tasks, slow, jitter):
    found = run(tasks, slow=slow, jitter=jitter, seed=2)
    hidden = sum(task.hidden for task in tasks)
    assert found.seconds >= max(found.compute) - 1e-9
    assert found.seconds >= hidden - 1e-9
    parts = found.compute + found.communication + found.exposed + found.waiting
    np.testing.assert_allclose(parts, found.seconds, rtol=1e-9, atol=1e-9)
    assert found.sums == pytest.approx(spent(tasks, "gradients") + hidden)
    if not slow and not jitter:
        most = sum(task.seconds + task.hidden for task in tasks)
        assert sum(task.seconds for task in tasks) - 1e-9 <= found.seconds <= most + 1e-9
        assert max(found.waiting) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_where_nothing_overlaps_a_step_is_the_sum_of_its_parts(tasks):
    shown = [task for task in tasks if not task.hidden]
    found = run(shown)
    assert found.seconds == pytest.approx(sum(task.seconds for task in shown))
    assert found.exposed[0] == pytest.approx(spent(shown, "gradients"))
    assert found.compute[0] == pytest.approx(spent(shown, "forward", "backward", "update"))


@settings(max_examples=50, deadline=None)
@given(STEPS, st.integers(0, SIZE - 1), st.floats(1.0, 5.0), st.floats(1.0, 2.0))
def test_a_slow_rank_makes_a_step_longer_but_by_no_more_than_its_factor(tasks, rank, factor, more):
    even, slow, slower = (run(tasks, slow={rank: one}).seconds for one in (1.0, factor, factor * more))
    assert even <= slow * (1 + 1e-12) + 1e-12
    assert slow <= factor * even * (1 + 1e-12) + 1e-12
    assert slow <= slower * (1 + 1e-12) + 1e-12


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_alike_ranks_are_computed_once_and_as_if_they_were_many(tasks):
    one, many = simulate(tasks, SHAPE), run(tasks, jitter=1e-300)  # draws of exactly 1
    assert one.seconds == pytest.approx(many.seconds)
    assert [(e.name, e.kind, e.lane) for e in one.events[0]] == [(e.name, e.kind, e.lane) for e in many.events[5]]


def chain(layers, forward, backward, wire):
    """A chain of layers whose gradients are each summed behind backward."""
    tasks = [Task(f"f{i}", "forward", forward) for i in range(layers)]
    for i in range(layers):
        tasks.append(Task(f"b{i}", "backward", backward))
        tasks.append(Task(f"bucket {i}", "gradients", 0.0, wire, axes=(0,)))
    return [*tasks, Task("update", "update", 0.0)]


@given(st.integers(1, 30), SECONDS, SECONDS, SECONDS)
def test_a_chain_takes_forward_and_the_longer_of_backward_and_wire(layers, forward, backward, wire):
    found = simulate(chain(layers, forward, backward, wire), (2,))
    bound = layers * forward + max(layers * backward, layers * wire)
    assert found.seconds >= bound * (1 - 1e-12)
    assert found.seconds <= bound + min(backward, wire) * (1 + 1e-9) + 1e-9  # the first sum waits, the last sticks out


def test_an_exchange_waits_for_its_axis_only():
    tasks = [Task("f", "forward", 1.0), Task("x", "communication", 0.5, axes=(1,))]
    found = run(tasks, slow={4: 3.0})
    assert found.waiting.tolist() == [2, 2, 2, 2, 0, 2]  # at the exchange, or for the end
    assert found.steps == (3.5,)
    assert found.critical == 4
    waits = [one for one in found.events[3] if one.kind == "wait"]
    assert [(one.name, one.start, one.end) for one in waits] == [("x", 1.0, 3.0)]


def test_a_halo_waits_for_neighbours_only():
    tasks = [Task("f", "forward", 1.0), Task("x", "communication", 0.5, axes=(0,), near=True)]
    found = simulate(tasks, (5,), slow={0: 2.0}, watch=range(5))
    assert found.waiting.tolist() == [0, 1, 1, 1, 1]
    waited = [[one.end - one.start for one in found.events[rank] if one.kind == "wait"] for rank in range(5)]
    assert waited == [[], [1.0], [], [], []]


def test_an_exchange_on_the_same_link_holds_sums_up():
    def step(hinders):
        return [
            Task("b1", "backward", 1.0),
            Task("bucket 0", "gradients", 0.0, 2.0, axes=(0,)),
            Task("x", "communication", 1.0, axes=(0,), hinders=hinders),
            Task("b0", "backward", 0.5),
        ]

    assert run(step(False)).seconds == pytest.approx(3.0)
    held = run(step(True))
    assert held.seconds == pytest.approx(4.0)
    assert [(one.start, one.end) for one in lane(held.events[0], "communication")] == [(2.0, 4.0)]


def test_half_of_a_sum_can_hide():
    tasks = [
        Task("b1", "backward", 1.0),
        Task("bucket 0", "gradients", 1.0, 1.0, axes=(0,)),
        Task("b0", "backward", 3.0),
        Task("update", "update", 0.5),
    ]
    found = run(tasks)
    assert (found.seconds, found.exposed[0], found.sums) == (5.5, 1.0, 2.0)


def test_jitter_is_drawn_from_the_seed():
    tasks = [Task(f"f{i}", "forward", 1.0) for i in range(50)] + [Task("x", "communication", 0.0, axes=(0, 1))]
    first, again, other = (run(tasks, jitter=0.1, seed=seed, steps=4) for seed in (0, 0, 1))
    assert first.steps == again.steps
    assert first.events == again.events
    assert first.steps != other.steps
    assert 50.0 < first.seconds < 53.0  # the mean of each is 1; the slowest of six counts


def test_steps_follow_each_other():
    tasks = chain(3, 1.0, 2.0, 5.0)
    assert simulate(tasks, (2,), steps=3).steps == pytest.approx(simulate(tasks, (2,)).steps * 3)


def test_thousands_of_ranks():
    tasks = [*chain(20, 1e-3, 2e-3, 1e-3)]
    found = simulate(tasks, (4096,), slow={17: 1.5}, jitter=0.05, watch=())
    assert found.critical == 17
    assert found.compute.shape == (4096,)
    assert found.seconds > 0.06 * 1.4
