import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import PlanError
from autopar.ir.pipeline.schedule import Action, format_schedule, parse_schedule

ACTIONS = st.builds(Action, st.sampled_from("FBW"), st.integers(0, 999), st.integers(0, 999))


@settings(max_examples=50)
@given(st.lists(st.lists(ACTIONS, max_size=40).map(tuple), max_size=4).map(tuple))
def test_text_is_read_back(lists):
    text = format_schedule(lists)
    assert parse_schedule(text) == lists
    assert parse_schedule("\n" + text.replace("\n", "\n    ")) == lists
    assert max(map(len, text.splitlines()), default=0) <= 118


def test_text_as_it_stands_in_a_program():
    lists = parse_schedule("""
        0: F0.0 F0.1
           B0.0 B0.1
        1: F1.0 B1.0
    """)
    assert lists[0][2] == Action("B", 0, 0)
    assert [len(each) for each in lists] == [4, 2]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0: F0", "'F0'"),
        ("0: G0.0", "'G0.0'"),
        ("1: F0.0", "'1: F0.0'"),
        ("F0.0", "'F0.0'"),
        ("0: F0.0\n0: B0.0", "1:"),
    ],
)
def test_what_is_no_schedule_is_named(text, named):
    with pytest.raises(PlanError, match=named):
        parse_schedule(text)
