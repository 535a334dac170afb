"""Plans: what is written is read back, the same bytes every time, and nothing else is taken for a plan."""

import contextlib
import copy
import functools
import json
import re
from dataclasses import replace

import pytest
from characters import CHARACTERS
from compiling import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.analysis.placement_timeline import timeline
from autopar.errors import PlanError
from autopar.ir.machine import RankClass
from autopar.ir.plan import VERSION
from autopar.ir.plan_file import from_json, load_plan, to_json
from autopar.runtime.program.plan_reader import parse_description

QUICKLY = settings(deadline=None, max_examples=50)


@functools.cache
def plan(name="gpt", grid="2x2"):
    return compiled(name, grid, pin=("*fc1*: n@axis0",) if name == "mlp" else ()).plan


@functools.cache
def text():
    return to_json(plan("conv", "2"))


@pytest.mark.parametrize(("name", "grid"), [("mlp", "2"), ("conv", "2"), ("gpt", "2x2"), ("counted", "2")])
def test_a_plan_is_read_back(name, grid, tmp_path):
    one = plan(name, grid)
    written = to_json(one)
    assert from_json(written, "here") == one
    assert to_json(from_json(written, "here")) == written
    (tmp_path / "plan.json").write_text(written)
    assert load_plan(tmp_path) == load_plan(tmp_path / "plan.json") == one


def test_a_plan_is_plain_json_that_names_its_version():
    read = json.loads(text())
    assert read["version"] == VERSION == 3
    assert list(read)[:3] == ["version", "autopar", "name"]
    assert text().isascii()
    assert text().endswith("}\n")


def test_what_is_said_of_unequal_ranks_stands_where_they_are_unequal():
    assert "cuts" not in json.loads(text())
    assert "ranks" not in json.loads(text())["machine"]
    machine = replace(plan().machine, ranks=(RankClass(ranks="1", speed=0.5),))
    one = replace(plan(), machine=machine, cuts=(("axis0", (0.0, 2 / 3, 1.0)),))
    assert from_json(to_json(one), "here") == one
    assert one.shape.cuts == ((0.0, 2 / 3, 1.0), ())


def refused(damaged, says="rule: "):
    with pytest.raises(PlanError, match=says) as caught:
        from_json(damaged, "here/plan.json")
    assert str(caught.value).startswith("here/plan.json: ")
    assert "fix: " in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, 4, "1", None, -1, 1.5, [1]])
def test_another_version(version):
    refused(json.dumps({**json.loads(text()), "version": version}), "version")


def test_no_version():
    read = json.loads(text())
    del read["version"]
    refused(json.dumps(read), "version")


def test_another_release():
    refused(json.dumps({**json.loads(text()), "autopar": "99.0"}), "99.0")


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", "null", "1", '"plan"', "{}", "\x00", "[" * 100_000, '{"version": 3}', "[1, 2"]
)
def test_not_a_plan(damaged):
    refused(damaged)


@QUICKLY
@given(st.integers(0, 10**6))
def test_a_text_that_breaks_off(place):
    refused(text()[: place % (len(text()) - 2)])


@QUICKLY
@given(st.text(CHARACTERS, max_size=200))
def test_any_text(damaged):
    refused(damaged)


@QUICKLY
@given(st.integers(0, 10**6), CHARACTERS, st.integers(0, 3))
def test_a_text_with_other_characters(place, character, length):
    place %= len(text())
    refused_or_read(text()[:place] + character + text()[place + length :])


def refused_or_read(damaged):
    """A PlanError, or a plan that can be written again; never another exception."""
    try:
        read = from_json(damaged, "here/plan.json")
    except PlanError:
        return None
    assert from_json(to_json(read), "again") == read
    return read


ODD = [None, True, -1, 10**30, -0.5, "", "shard 9", "nothing", [], {}, [[]], [None], {"a": 1}]


@QUICKLY
@given(st.randoms(use_true_random=False), st.sampled_from(ODD))
def test_a_value_of_another_kind(draw, odd):
    changed = json.loads(text())
    holder, key = place_in(changed, draw)
    holder[key] = odd
    refused_or_read(json.dumps(changed))


@QUICKLY
@given(st.randoms(use_true_random=False))
def test_a_value_left_out_or_given_twice(draw):
    changed = json.loads(text())
    holder, key = place_in(changed, draw)
    if isinstance(holder, list) and draw.random() < 0.5:
        holder.append(copy.deepcopy(holder[key]))
    else:
        del holder[key]
    refused_or_read(json.dumps(changed))


@functools.cache
def divided_text():
    return to_json(compiled("mlp", "stage:2", segments=2).plan)


@QUICKLY
@given(st.randoms(use_true_random=False), st.sampled_from([*ODD, 0, 1, 2, 0.5, "F0.0", "F0.0 B0.0"]))
def test_of_a_divided_graph_what_is_read_can_be_carried_out(draw, odd):
    """Or it is refused, for its schedule at the latest."""
    changed = json.loads(divided_text())
    holder, key = place_in(changed["placement"], draw)
    holder[key] = odd
    read = refused_or_read(json.dumps(changed))
    if read is not None:
        with contextlib.suppress(PlanError):
            assert timeline(read.placement).makespan >= 0


def place_in(tree, draw):
    """A list or dict somewhere in the tree, and one of its keys."""
    while True:
        key = draw.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        inner = tree[key]
        if not (isinstance(inner, dict | list) and inner) or draw.random() < 0.2:
            return tree, key
        tree = inner


def test_every_field_is_needed():
    """A field left out of the outermost object is a damaged plan."""
    for field in json.loads(text()):
        changed = json.loads(text())
        del changed[field]
        refused(json.dumps(changed))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("grid",), "2x", "grid"),
        (("grid",), "3x2", "axes"),
        (("parameters", 0, "layouts", 0), "shart 0", "shart"),
        (("inputs", 0, "dtype"), "float31", "float31"),
        (("nodes", 0, "choices", 0, "mode"), "splitt", "splitt"),
        (("conversions", 0, "axis"), "axis7", "axis7"),
        (("predicted", "compute"), -1.0, "negative"),
        (("solver", "cost"), "cheap", "cost"),
        (("filled",), [[["axis7"], 4]], "axis7"),
        (("cuts",), [["axis7", [0, 0.5, 1]]], "axis7"),
        (("cuts",), [["axis0", [0, 0.5, 0.75, 1]]], "axis0: 2 ranks cannot be cut at"),
        (("cuts",), [["axis0", [0, 1.5, 1]]], "axis0: 2 ranks cannot be cut at"),
        (("filled",), [[["axis0"], 0]], "extent of 0"),
    ],
)
def test_what_a_hand_edit_can_break(path, value, says):
    changed = json.loads(text())
    holder = functools.reduce(lambda tree, key: tree[key], path[:-1], changed)
    holder[path[-1]] = value
    refused(json.dumps(changed), says)


def test_a_plan_tells_the_runtime_which_factors_must_stay_filled():
    """The four output channels of a convolution, cut into halves of halves; what is not split is not there."""
    one = compiled("conv", "2x2", pin=("*conv1*: k@axis0", "*conv1*: k@axis1")).plan
    assert (("axis0", "axis1"), 4) in one.filled
    assert parse_description(to_json(one), "here").filled == one.filled
    assert plan("mlp", "2").filled == ()


def test_a_missing_or_unreadable_file(tmp_path):
    for path in (tmp_path, tmp_path / "plan.json", tmp_path / "no" / "such"):
        with pytest.raises(PlanError, match=re.escape(str(path))):
            load_plan(path)
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path)


def test_the_same_input_gives_the_same_bytes():
    assert to_json(compiled("gpt", "2x2").plan) == to_json(plan())
