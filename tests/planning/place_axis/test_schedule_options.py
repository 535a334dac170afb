"""Schedules and numbers of segments: what cannot be is refused before the capture, and what is asked for is what is planned."""

import pytest
from compiling import CPU, compiled, compiled_once

from autopar.errors import ConfigError
from autopar.planning.options import check, options_of


def checked(grid="stage:2", schedule="auto", segments=None, ranks=None):
    options = options_of(
        None, "auto", "adamw", (), (), None, 60.0, (), False, "auto", "auto", (), "1", schedule, segments
    )
    check(options, grid, ranks, CPU)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"schedule": "gpip"}, "'gpip' is unknown; did you mean 'gpipe'?"),
        ({"segments": 0}, "segments: 0"),
        ({"segments": True}, "segments: True"),
        ({"segments": 2, "schedule": "1f1b"}, "2 with --schedule 1f1b"),
        (
            {"grid": "2x2", "schedule": "gpipe", "segments": 2},
            "--schedule gpipe --segments 2: grid 2x2 has no place axis",
        ),
        ({"grid": "2", "segments": 1}, "--segments 1: grid 2 has no place axis"),
    ],
)
def test_refusals(given, said):
    with pytest.raises(ConfigError) as caught:
        checked(**given)
    assert said in str(caught.value)


def test_what_is_allowed():
    checked("2x2")
    checked(schedule="interleaved", segments=3)
    checked("auto", "1f1b", ranks=4)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_the_schedule_is_the_one_that_was_asked_for(schedule):
    plan = compiled("mlp", "stage:2", schedule=schedule).plan
    assert plan.options.schedule == schedule
    assert [row.split()[0][0] for row in plan.placement.schedule] == ["F", "F"]


def test_a_position_has_no_more_segments_than_allowed():
    placement = compiled("mlp", "stage:2", segments=2).plan.placement
    counts = [sum(segment.position == position for segment in placement.segments) for position in (0, 1)]
    assert 1 <= min(counts) <= max(counts) <= 2


def test_what_was_asked_of_a_place_axis_goes_with_it():
    one = compiled_once("mlp", "stage:2", segments=2)
    assert one.replan(grid="2").plan.options.segments is None
    assert one.replan(grid="stage:3").plan.options.segments == 2


@pytest.mark.parametrize("options", [{"segments": 2}, {"schedule": "gpipe"}, {"pin": ["fc1: stage=0"]}])
def test_auto_takes_a_place_axis_where_something_is_asked_of_it(options):
    best = compiled("mlp", "auto", ranks=2, **options)
    assert [one.grid for one in best.grids] == ["stage:2"]
    assert best.plan.placement is not None
    assert compiled_once("mlp", "auto", ranks=2).plan.placement is None
