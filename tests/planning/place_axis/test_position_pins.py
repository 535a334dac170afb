"""Pins and bans of positions: what cannot be followed is refused with all offenders, and what can is."""

import pytest
from compiling import compiled, compiled_once
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import AutoparError, ConfigError
from autopar.ir.grid import GridShape
from autopar.planning.options import check, options_of
from autopar.planning.place_axis.position_pins import is_position, letter_pins, placed_by_hand


def wishes(pin=(), ban=()):
    return options_of(None, "auto", "adamw", pin, ban, None, 60.0, (), False, "auto", "auto", ())


def refused(pin=(), ban=(), grid="pipe=stage:2,data=2"):
    """Before anything is captured."""
    with pytest.raises(ConfigError) as caught:
        check(wishes(pin, ban), grid, None, compiled_once("mlp", "stage:2").plan.machine)
    return str(caught.value)


def test_they_are_told_by_their_form():
    texts = ("h.0.*: pipe=0", "*: b0@data", "w=1: n@data", "a:b : stage = 3")
    assert [is_position(text) for text in texts] == [True, False, False, True]
    assert letter_pins(texts) == texts[1:3]


def test_what_names_no_position_is_refused_with_all_of_them():
    said = refused(["a: pipe=2", "b: pip=0", "c: pipe=0", "d: data=0"], ["e: pipe=-1", ": pipe=0"])
    assert "5 cannot be followed" in said
    assert "pin 'a: pipe=2': no position '2'; pipe has the positions 0 to 1" in said
    assert "pin 'b: pip=0': unknown axis 'pip'; the place axis is pipe" in said
    assert "pin 'd: data=0': data is no place axis: tensors are split over it" in said
    assert "ban 'e: pipe=-1': no position" in said
    assert "ban ': pipe=0': it has no pattern" in said
    assert "grid 2x2 has no place axis" in refused(["a: stage=0"], grid="2x2")
    assert "pipe is a place axis" in refused(["a: n@pipe"])


def places(pin=(), ban=(), grid="stage:2"):
    return placed_by_hand(wishes(pin, ban), GridShape.parse(grid), compiled_once("mlp", "stage:2").graph)


def test_patterns_are_over_modules_and_calls():
    nodes = compiled_once("mlp", "stage:2").graph.nodes
    modules = [node.module for node in nodes]
    assert places(["fc2: stage=1", f"{nodes[0].name}: stage=0"]) == (((modules.index("fc2"), 1), (0, 0)), ())
    assert places(ban=["*: stage=1"]) == ((), tuple((call, 1) for call in range(len(nodes))))


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="pin 'fc3: stage=0': matches no module or call; did you mean 'fc"):
        places(["fc3: stage=0"])
    with pytest.raises(ConfigError) as caught:
        places(["fc3: stage=0"], ["h.9: stage=0"])
    assert str(caught.value).count("matches no module or call") == 2


@pytest.mark.parametrize(
    ("pin", "ban"),
    [
        (["fc1: stage=0", "*: stage=1"], []),
        (["fc1: stage=0"], ["fc*: stage=0"]),
        ([], ["fc1: stage=0", "*: stage=1"]),
    ],
)
def test_those_that_leave_a_call_no_position_are_refused_together(pin, ban):
    with pytest.raises(ConfigError) as caught:
        places(pin, ban)
    said = str(caught.value)
    assert "contradict each other" in said
    assert all(repr(text) in said for text in (*pin, *ban))


def test_more_positions_than_calls():
    with pytest.raises(ConfigError, match=r"grid stage:64: 64 positions for \d+ operator calls of the model"):
        compiled("mlp", "stage:64")


def test_a_way_that_returns_needs_as_many_segments():
    pins = ["fc1: stage=0", "relu*: stage=1", "fc2: stage=0"]
    with pytest.raises(ConfigError, match="2 times"):
        compiled("mlp", "stage:2", pin=pins)
    again = compiled("mlp", "stage:2", pin=pins, segments=2, microbatches=1).plan.placement
    assert sorted(segment.position for segment in again.segments) == [0, 0, 1]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["fc1", "fc2", "relu*", "*"]), st.integers(0, 2), st.booleans()), max_size=3))
def test_a_plan_heeds_them_or_there_is_none(drawn):
    pin = [f"{pattern}: stage={position}" for pattern, position, ban in drawn if not ban]
    ban = [f"{pattern}: stage={position}" for pattern, position, ban in drawn if ban]
    try:
        one = compiled("mlp", "stage:3", pin=pin, ban=ban)
    except AutoparError:
        assert drawn
        return
    placement, names = one.plan.placement, [node.name for node in one.graph.nodes]
    at = [placement.segments[placement.segment_of[name]].position for name in names]
    pins, bans = placed_by_hand(one.plan.options, GridShape.parse("stage:3"), one.graph)
    assert all(at[call] == position for call, position in pins)
    assert all(at[call] != position for call, position in bans)
    assert set(at) == {0, 1, 2}
