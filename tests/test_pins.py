"""Pins that a graph cannot follow: each says why, and which letters there are."""

import pytest

from autopar.errors import ConfigError
from autopar.graph import Graph, Node, Ref, Value
from autopar.grid import GridShape
from autopar.ops import op
from autopar.ops.op import Op
from autopar.ops.rule import letters
from autopar.pins import apply, parse

TARGET = "aten.softmax.int"


@pytest.fixture
def graph(monkeypatch):
    record = Op("mine", (TARGET,), "a 1 [v] -> a 1 [v]", lambda call: letters("a c [v] -> a c [v]", call), None)
    monkeypatch.setattr(op, "_OWN", {TARGET: record})
    values = {name: Value(name, (4, 1, 6), "float32", True) for name in "xyz"}
    nodes = tuple(
        Node(name, TARGET, (Ref(given), 2), (), (made,), f"block.{name}", "net.py:7", "h = self.soft(x)")
        for name, given, made in (("first", "x", "y"), ("second", "y", "z"))
    )
    return Graph("g", (), (), nodes, values, "z")


def refused(graph, *texts):
    with pytest.raises(ConfigError) as caught:
        apply(parse(texts, GridShape.parse("2")), graph)
    return str(caught.value)


def test_a_pin_is_applied_to_every_match(graph):
    found = apply(parse(["block.*: a@axis0"], GridShape.parse("2")), graph)
    assert found == {"first": {0: "a"}, "second": {0: "a"}}
    assert apply((), graph) == {}


def test_a_frozen_letter_says_why(graph):
    text = refused(graph, "block.first: v@axis0")
    assert text.startswith(
        "pin 'block.first' on net.py:7: `h = self.soft(x)`: the letter 'v' of mine is frozen: each result"
    )
    assert "- first: a (4); a 1 [v] -> a 1 [v]" in text
    assert "fix: pin one of the letters above" in text


def test_a_letter_of_extent_one_says_so(graph):
    assert "the letter 'c' of mine has extent 1, which cannot be split" in refused(graph, "first: c@axis0")


def test_an_unknown_letter_lists_those_of_all_matches(graph):
    text = refused(graph, "*: aa@axis0")
    assert "no call there has the letter 'aa'; did you mean 'a'?" in text
    assert text.count("a (4); a 1 [v]") == 2


def test_a_pattern_that_matches_nothing_suggests_a_path(graph):
    assert "matches no module or call; did you mean 'block.first'?" in refused(graph, "block.frist: a@axis0")


def test_two_pins_that_contradict(graph):
    assert "contradict each other" in refused(graph, "first: a@axis0", "*: replicate@axis0")
