"""Pins that a graph cannot follow: each says why, and which letters there are."""

import pytest
from compiling import QUICK, assert_computes_the_same, captured, compiled

from autopar.errors import ConfigError
from autopar.ir.graph import Graph, Node, Ref, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import parse_layout
from autopar.ops import registry
from autopar.ops.annotated import annotate
from autopar.ops.record.op import Op
from autopar.ops.record.rule import letters
from autopar.partitioner.formulation.choice_patterns import layout_matches
from autopar.partitioner.formulation.constraints import Constraints
from autopar.planning.pins import apply, parse

TARGET = "aten.softmax.int"


@pytest.fixture
def graph(monkeypatch):
    record = Op("mine", (TARGET,), "a 1 [v] -> a 1 [v]", lambda call: letters("a c [v] -> a c [v]", call), None)
    monkeypatch.setattr(registry, "_OWN", {TARGET: record})
    values = {name: Value(name, (4, 1, 6), "float32", True) for name in "xyz"}
    nodes = tuple(
        Node(name, TARGET, (Ref(given), 2), (), (made,), f"block.{name}", "net.py:7", "h = self.soft(x)")
        for name, given, made in (("first", "x", "y"), ("second", "y", "z"))
    )
    return Graph("g", (), (), nodes, values, "z")


GRID = GridShape.parse("2x2")


def wishes(graph, *texts, ban=()):
    return apply((*parse(texts, GRID), *parse(ban, GRID, ban=True)), annotate(graph), GRID)


def refused(graph, *texts, ban=()):
    with pytest.raises(ConfigError) as caught:
        wishes(graph, *texts, ban=ban)
    return str(caught.value)


def test_a_pin_is_applied_to_every_match(graph):
    assert wishes(graph, "block.*: a@axis0").pins == {"first": {0: "a"}, "second": {0: "a"}}
    assert wishes(graph, "first: a@*").pins == {"first": {0: "a", 1: "a"}}
    assert wishes(graph) == Constraints()


def test_a_ban_is_applied_to_every_match(graph):
    found = wishes(graph, "first: whole@axis1", ban=["*: a@axis0", "block.second: copied@*"])
    assert found.pins == {"first": {1: "whole"}}
    assert found.bans == {"first": {0: ("a",)}, "second": {0: ("a", "copied"), 1: ("copied",)}}


def test_of_two_pins_that_agree_the_narrower_counts(graph):
    assert wishes(graph, "first: copied@axis0", "*: whole@axis0").pins["first"] == {0: "copied"}
    assert wishes(graph, "first: whole@axis0", "first: copied@axis0").pins["first"] == {0: "copied"}


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
    text = refused(graph, "first: a@axis0", "*: replicate@*")
    assert text.startswith("pins on first: contradict each other")
    assert "- pin 'first': a@axis0 against pin '*': replicate@axis0, as for first" in text


def test_all_contradictions_at_once(graph):
    text = refused(
        graph, "first: a@axis0", "second: copied@axis1", ban=["*: a@*", "second: whole@axis1", "first: whole@*"]
    )
    assert text.count("  - ") == 2
    assert "- pin 'first': a@axis0 against ban '*': a@axis0" in text
    assert "- pin 'second': copied@axis1 against ban 'second': whole@axis1" in text


def test_a_ban_that_matches_nothing_is_refused_as_a_pin_is(graph):
    assert "ban 'block.frist': matches no module or call; did you mean 'block.first'?" in refused(
        graph, ban=["block.frist: a@*"]
    )
    assert "a ban names a letter" in refused(graph, ban=["first: b@*"])
    assert "ban 'first: a@axis9': unknown axis" in refused(graph, ban=["first: a@axis9"])


def test_layouts_are_pinned_and_banned_on_tensors():
    gpt = captured("gpt").graph
    weight = {item.name: item.value for item in gpt.parameters}
    found = wishes(gpt, "blocks.*.up.weight: shard 0@axis1", "embed.weight: whole@axis0", ban=["*: shard@axis0"])
    assert found.storage[weight["blocks.1.up.weight"]] == {1: ("shard 0",)}
    assert found.storage[weight["embed.weight"]] == {0: ("whole",)}
    assert len(found.banned_storage) == len(gpt.parameters) + len(gpt.inputs)
    assert wishes(gpt, "head.weight: shard 0@axis0").storage == {weight["embed.weight"]: {0: ("shard 0",)}}  # tied
    assert "no parameter or input; did you mean 'blocks.0.up.weight'?" in refused(
        gpt, "blocks.0.up.wieght: shard 0@axis0"
    )
    text = refused(gpt, "embed.weight: shard 1@axis0", "*.weight: shard 0@axis0", ban=["position.weight: shard@*"])
    assert text.count("  - ") == 2
    assert "'embed.weight': shard 1@axis0 against pin '*.weight': shard 0@axis0" in text


@pytest.mark.parametrize("word", ["shard 0", "whole", "replicate", "copied"])
def test_a_parameter_lies_where_it_is_pinned(word):
    one = compiled("gpt", "2", pin=[f"blocks.*.up.weight: {word}@axis0"])
    found = [item.layouts[0] for item in one.plan.parameters if item.name.endswith("up.weight")]
    assert len(found) == 3
    assert all(layout_matches(parse_layout(text), word) for text in found)
    assert_computes_the_same(one, "gpt")


def test_a_pin_on_one_of_several_blocks_is_for_that_block():
    one = compiled("gpt", "2", pin=["blocks.1.up.weight: shard 0@axis0"], ban=["blocks.0.up.weight: shard@axis0"])
    found = {item.name: item.layouts[0] for item in one.plan.parameters}
    assert found["blocks.1.up.weight"] == "shard 0"
    assert not found["blocks.0.up.weight"].startswith("shard")
    assert_computes_the_same(one, "gpt")


def test_what_is_banned_is_not_done():
    free = compiled("wide_mlp", "2", machine=QUICK)
    used = {choice.letter for node in free.plan.nodes for choice in node.choices if node.name.startswith("fc")}
    banned = [f"fc*: {letter}@*" for letter in sorted(used)]
    one = compiled("wide_mlp", "2", machine=QUICK, ban=banned)
    assert not used & {
        choice.letter for node in one.plan.nodes for choice in node.choices if node.name.startswith("fc")
    }
    assert one.plan.options.bans == tuple(banned)
    assert one.solution.cost >= free.solution.cost
    assert_computes_the_same(one, "wide_mlp")


def test_a_call_with_nothing_left_says_what_it_could_do():
    with pytest.raises(ConfigError) as caught:
        compiled("mlp", "2", ban=[f"fc1: {word}@*" for word in ("b0", "k", "n", "whole", "linear")])
    text = str(caught.value)
    assert "the call has nothing left to do" in text
    assert text.count("ban of") == 5
    assert "without bans and with the pins it could do replicate; " in text


def test_a_layout_that_a_parameter_cannot_have_says_which_it_can():
    with pytest.raises(ConfigError, match=r"cannot lie so: shard 1@axis0(.|\n)*it can lie as copied"):
        compiled("mlp", "2", pin=["fc1.bias: shard 1@axis0"])
