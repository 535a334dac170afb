"""The tasks of a plan: all of its seconds, each once, in an order that a program can have; and what a plan predicts by them."""

import dataclasses
import functools

import pytest
from compiling import QUICK, SLOW, compiled

from autopar.costmodel import compute, step_schedule
from autopar.costmodel.timeline import simulate
from autopar.ir.grid import GridShape
from autopar.ir.layout import parse_layout
from autopar.ir.machine import Link
from autopar.ir.plan_file import from_json, to_json

CASES = [("mlp", "2"), ("conv", "2x2"), ("attention", "2"), ("gpt", "2x2"), ("gpt", "2")]
FREE = dataclasses.replace(SLOW, intra=Link(0.0, 1e9), inter=Link(0.0, 1e9), overlap=0.0)


@functools.cache
def made(name, grid, machine=FREE):
    return compiled(name, grid, machine)


def plan(name, grid, machine=FREE):
    return made(name, grid, machine).plan


@pytest.mark.parametrize(("name", "grid"), CASES)
@pytest.mark.parametrize("machine", [FREE, QUICK], ids=["free", "quick"])
def test_a_plan_s_seconds_are_those_of_its_tasks(name, grid, machine):
    found = plan(name, grid, machine)
    done = step_schedule.of(found)
    seconds = {kind: 0.0 for kind in ("forward", "backward", "communication", "gradients", "update")}
    for task in done:
        seconds[task.kind] += task.seconds
    predicted = found.predicted
    assert seconds["forward"] + seconds["backward"] == pytest.approx(predicted.compute)
    assert seconds["communication"] == pytest.approx(predicted.communication)
    assert seconds["update"] == pytest.approx(predicted.update)
    assert simulate(done).seconds == pytest.approx(predicted.seconds)
    assert predicted.gradients >= seconds["gradients"] - 1e-15
    assert step_schedule.events(from_json(to_json(found), "plan.json")) == step_schedule.events(found)


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_the_work_of_a_plan_is_what_its_largest_rank_computes(name, grid):
    """With the shares of balanced cuts; whatever is divided otherwise is divided by what is cut."""
    found = plan(name, grid)
    sizes = dict(zip(GridShape.parse(grid).names, GridShape.parse(grid).sizes, strict=True))
    seconds = 0.0
    for work in found.work:
        share = 1.0
        for names, extent in work.cuts:
            rows = functools.reduce(lambda rows, axis: -(-rows // sizes[axis]), names, extent)
            share *= rows / extent
        seconds += work.seconds * share
    assert seconds == pytest.approx(found.predicted.compute + found.predicted.update)
    assert {names for work in found.work for names, _ in work.cuts}


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_without_overlap_the_sums_are_those_that_the_planner_priced(name, grid):
    """Without latencies: the planner does not know the buckets. Flags are all that a bucket has besides its gradients."""
    one = made(name, grid)
    graph, storage = one.graph, {item.name: item for item in one.plan.parameters}
    shape = GridShape.parse(grid)
    separable = sum(
        compute.parameter_seconds(
            graph.values[item.value],
            item.kind,
            tuple(map(parse_layout, storage[item.name].layouts)),
            "adamw",
            shape,
            FREE,
        )[0]
        for item in graph.parameters
    )
    flags = 2 * 8 * len(graph.parameters) * len(shape.sizes) / FREE.intra.beta
    assert separable <= one.plan.predicted.gradients + 1e-15
    assert one.plan.predicted.gradients <= separable + flags


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_what_hides_makes_a_step_shorter_and_never_longer_than_the_sum_of_all(name, grid):
    one = plan(name, grid)
    seconds = []
    for overlap in (0.0, 0.25, 0.5, 1.0):
        machine = dataclasses.replace(FREE, overlap=overlap)
        done = step_schedule.of(dataclasses.replace(one, machine=machine))
        seconds.append(simulate(done).seconds)
        assert seconds[-1] <= sum(task.seconds + task.hidden for task in done) * (1 + 1e-12)
        assert seconds[-1] >= sum(task.seconds for task in done) * (1 - 1e-12)
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize(("name", "grid"), CASES)
def test_backward_is_forward_in_reverse_and_no_sum_comes_before_its_gradients(name, grid):
    found = plan(name, grid)
    done = step_schedule.of(found)
    forward = [task.name for task in done if task.kind == "forward"]
    assert forward == [node.name for node in found.nodes]
    assert [task.name for task in done if task.kind == "backward"] == forward[::-1]
    place = {task.name: i for i, task in enumerate(done) if task.kind == "backward"}
    for number, bucket in enumerate(step_schedule.sums(step_schedule.parts(found))):
        at = next(i for i, task in enumerate(done) if task.name == f"bucket {number}" and task.kind == "gradients")
        for member in bucket.members:
            readers = next(one.readers for one in found.parameters if one.name == member)
            assert readers
            assert all(place[name] < at for name in readers)


def test_conversions_of_repeated_blocks_take_place_in_every_block():
    found = plan("gpt", "2")
    repeated = [one for one in found.conversions if one.times > 1 and one.consumers]
    assert repeated
    forward = [task for task in step_schedule.of(found) if task.kind in ("forward", "communication")]
    for one in repeated:
        blocks = [
            task.detail.split()[0].split(".")[1]
            for task in forward
            if task.kind == "communication" and task.name == one.value
        ]
        assert {block: blocks.count(block) for block in "012"} == dict.fromkeys("012", blocks.count("0"))
        assert blocks.count("0") >= 1
