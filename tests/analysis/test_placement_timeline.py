"""The step of a divided plan, simulated again from the plan alone: what the planner simulated, drawn to scale."""

import dataclasses
import re
from itertools import pairwise

import pytest
from compiling import compiled_once

from autopar.analysis.placement_timeline import all_events, lanes, positions, timeline
from autopar.ir.plan_file import from_json, to_json

CASES = [("mlp", "stage:2", {}), ("mlp", "stage:3", {"segments": 2}), ("attention", "pipe=stage:2,data=2", {})]


def planned(case):
    name, grid, options = case
    return compiled_once(name, grid, **options).plan


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_plan_is_enough_to_simulate_its_step_again(case):
    plan = planned(case)
    placement = from_json(to_json(plan), "plan").placement
    drawn = timeline(placement)
    assert drawn.makespan == placement.makespan
    assert [idle / drawn.makespan for idle in drawn.idle] == pytest.approx(placement.idle)
    assert placement.bound <= placement.makespan * (1 + 1e-12)
    assert all(other.makespan > 0 for other in placement.baselines)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_predicted_of_a_step_is_what_is_simulated(case):
    plan = planned(case)
    placement, predicted = plan.placement, plan.predicted
    assert predicted.seconds == pytest.approx(placement.makespan)
    assert predicted.seconds - predicted.idle == pytest.approx(max(placement.seconds))
    assert predicted.bytes == pytest.approx(max(placement.bytes), abs=2)
    assert [each.work for each in positions(placement)] == list(placement.seconds)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("width", [20, 77, 120])
def test_lanes_are_to_scale(case, width):
    placement = planned(case).placement
    drawn = timeline(placement)
    for position, lane in enumerate(lanes(placement, width)):
        assert len(lane) == width
        actions = len(drawn.lists[position])
        assert lane.count(".") / width == pytest.approx(placement.idle[position], abs=(actions + 2) / width)
        assert [kind for kind, _ in re.findall(r"([FBW])([-=~\d.]*)", lane)] == [
            action.kind
            for action, start, end in zip(
                drawn.lists[position], drawn.start[position], drawn.end[position], strict=True
            )
            if round(end * width / drawn.makespan) > round(start * width / drawn.makespan)
        ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_events_cover_the_step_without_overlap(case):
    placement = planned(case).placement
    for _, events in all_events(placement):
        assert events[0].start == 0.0
        assert events[-1].end == pytest.approx(placement.makespan)
        assert all(one.end == other.start for one, other in pairwise(events))


def test_an_edited_schedule_that_cannot_run_is_refused():
    placement = planned(CASES[0]).placement
    first, *others = placement.schedule
    edited = dataclasses.replace(placement, schedule=(" ".join(reversed(first.split())), *others))
    with pytest.raises(Exception, match="schedule"):
        timeline(edited)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_work_of_all_positions_is_that_of_the_plan(count):
    """Of one rank: what its calls take in a step, whatever the number of micro-batches."""
    plan = compiled_once("mlp", "stage:2", microbatches=count).plan
    placement = plan.placement
    assert placement.microbatches == count
    actions = [(work - after) for work, after in zip(placement.seconds, placement.update, strict=True)]
    assert sum(actions) == pytest.approx(sum(node.seconds for node in plan.nodes))
    assert [len(re.findall("[FB]", row)) for row in placement.schedule] == [2 * count] * 2
