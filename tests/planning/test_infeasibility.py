"""Where no plan fits: which constraint binds, by how much, and that the limits, pins and bans which the message names do help."""

import re

import pytest
from compiling import compiled_once

from autopar.errors import InfeasiblePlan


def refused(one, **what):
    with pytest.raises(InfeasiblePlan) as caught:
        one.replan(**what)
    return str(caught.value)


def needed(text):
    """The least peak that a message names, in KiB."""
    return re.search(r"needs (\S+) KiB per rank, \S+ \S+ more: the least peak found", text).group(1)


def nearest_limit(text):
    return re.search(r"raise --memory to (\S+?)[,\n]", text + "\n").group(1)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("wide_mlp", {}),
        ("layers", {"recompute": "always"}),
        ("layers", {"recompute": "never"}),
        ("wide_mlp", {"plan": "zero"}),
        ("wide_mlp", {"optimizer": "sgd"}),
        ("wide_mlp", {"pin": ["fc1: b0@axis0"]}),
        ("wide_mlp", {"ban": ["*.weight: shard@*", "*.bias: shard@*"]}),
        ("wide_mlp", {"plan": "data"}),
    ],
)
def test_the_nearest_limit_works_and_nothing_below_it(name, what):
    first = compiled_once(name, "2")
    text = refused(first, memory=1000, **what)
    assert f"memory limit 1000.00 B per rank: {name} on grid" in text
    limit = nearest_limit(text)
    one = first.replan(memory=limit, **what)
    asked = one.plan.options.memory
    assert one.plan.predicted.bytes <= asked
    assert (one.plan.options.plan, one.plan.options.recompute) == (
        what.get("plan", "auto"),
        what.get("recompute", "auto"),
    )
    below = refused(first, memory=asked - 11, **what)  # the limit is rounded up to hundredths of a KiB
    assert nearest_limit(below) == limit
    assert needed(text) == needed(below)
    assert re.search(r"- most is held in ((forward|backward) of [\w ]+|the optimizer's step)\n", text)


def test_a_ban_that_binds_is_named():
    mlp = compiled_once("wide_mlp", "2")
    bans = ["*.weight: shard@*", "*.bias: shard@*"]
    free = mlp.replan(memory=nearest_limit(refused(mlp, memory=1000)))
    text = refused(mlp, memory=free.plan.options.memory, ban=bans)
    assert "wide_mlp on grid 2 with its bans needs" in text
    assert "- without ban '*.weight: shard@*' a plan needs" in text
    assert "- without all of them a plan fits" in text
    assert "take away all of them" in text
    assert mlp.replan(memory=free.plan.options.memory, ban=[]).plan.predicted.bytes <= free.plan.options.memory


def test_what_is_needed_without_a_pin_is_what_the_model_needs():
    attention = compiled_once("attention", "2")
    text = refused(attention, memory=1000, pin=["qkv: b0@axis0"])
    assert "with its pins" in text
    without = re.search(r"without pin 'qkv: b0@axis0' a plan needs (\S+) KiB", text)
    assert without.group(1) == needed(refused(attention, memory=1000))


def test_a_baseline_that_does_not_fit_says_that_another_plan_would():
    mlp = compiled_once("wide_mlp", "2")
    data = mlp.replan(plan="data")
    limit = int(data.plan.predicted.bytes * 0.8)
    text = refused(mlp, plan="data", memory=limit)
    assert "with its plan 'data' needs" in text
    assert "- without plan 'data' a plan fits" in text
    assert "take away plan 'data'" in text
    assert mlp.replan(memory=limit).plan.predicted.bytes <= limit


def test_pins_that_leave_no_choice_are_named():
    """Running statistics are never converted: a batch norm split by channels wants them in parts, and they are pinned whole."""
    conv = compiled_once("conv", "2")
    pins = ["norm: c@axis0", "norm.running_mean: whole@axis0"]
    text = refused(conv, pin=pins)
    assert "conv on grid 2: the pins and bans leave no choice of splits" in text
    assert "- without pin 'norm: c@axis0' a plan fits" in text
    assert "- without pin 'norm.running_mean: whole@axis0' a plan fits" in text
    assert "fix: take away pin 'norm: c@axis0'" in text
    conv.replan(pin=pins[:1])
    conv.replan(pin=pins[1:2])
