"""What-if questions in Python: a compiled model planned anew is what compiling it that way gives, and captures nothing."""

import dataclasses
from unittest import mock

import pytest
from compiling import CPU, QUICK, SLOW, compiled_once

import autopar
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.plan_file import to_json


@pytest.fixture(scope="module")
def first():
    return compiled_once("wide_mlp", "2")


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"grid": "2x2"},
        {"machine": QUICK},
        {"machine": dataclasses.replace(CPU, memory_bytes=10**6)},
        {"memory": "1MiB"},
        {"solver": "ilp"},
        {"optimizer": "sgd"},
        {"pin": ("fc1: n@axis0",)},
        {"grid": "data=2,model=2", "pin": ("fc*: n@model",), "time_limit": 7.0},
    ],
)
def test_replan_is_compile(first, what):
    with mock.patch("autopar.capture.capture", side_effect=AssertionError("captured again")):
        again = first.replan(**what)
    expected = compiled_once("wide_mlp", **({"grid": "2", "machine": SLOW} | what))
    assert to_json(again.plan) == to_json(expected.plan)
    assert again.source == expected.source


def test_what_is_left_out_stays(first):
    pinned = first.replan(pin=["fc1: n@axis0"], optimizer="momentum", memory="1MiB")
    again = pinned.replan(solver="ilp")
    assert again.plan.options == dataclasses.replace(pinned.plan.options, solver="ilp")
    assert pinned.replan(memory="machine").plan.options.memory is None
    assert first.plan.options.memory is None  # the first is as it was
    with pytest.raises(ConfigError, match="unknown axis 'axis0'"):
        pinned.replan(grid="data=2")


def test_refusals_are_those_of_compile(first):
    with pytest.raises(InfeasiblePlan, match="the least peak found"):
        first.replan(memory=100)
    with pytest.raises(ConfigError, match="did you mean 'ilp'"):
        first.replan(solver="ipl")
    with pytest.raises(ConfigError, match="no such profile"):
        first.replan(machine="cpuu")


def test_the_answer_runs(first, tmp_path):
    folder = first.replan(grid="2x2").save(tmp_path)
    assert autopar.load_plan(folder).grid == "2x2"
