"""``grid="auto"``: which grids are tried, which is taken, and what is said where none can be."""

import dataclasses
import functools
from unittest import mock

import pytest
import torch
from compiling import CPU, QUICK, SLOW, assert_computes_the_same, compiled, compiled_once
from hypothesis import given
from hypothesis import strategies as st

import autopar
from autopar.capture import capture
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.plan_file import to_json
from autopar.planning.grid_search import MOST, candidates

TWO_NODES = dataclasses.replace(SLOW, ranks_per_node=4)


@given(st.integers(1, 512), st.sampled_from([CPU, TWO_NODES]))
def test_candidates_are_distinct_grids_of_all_ranks(ranks, machine):
    found = candidates(ranks, machine)
    assert len(set(found)) == len(found) <= MOST
    assert all(shape.size == ranks and 1 not in shape.sizes and len(shape.sizes) <= 3 for shape in found) or ranks == 1
    assert [len(shape.sizes) for shape in found] == sorted(len(shape.sizes) for shape in found)


@pytest.mark.parametrize("text", ["4x2", "4X2", "4*2", "4,2", " 4x2 "])
def test_ways_to_write_a_grid(text):
    assert str(GridShape.parse(text)) == "4x2"


def test_orders_count_where_links_differ():
    inside = dataclasses.replace(CPU, ranks_per_node=8)
    assert [str(one) for one in candidates(8, inside)] == ["8", "4x2", "2x2x2"]
    assert [str(one) for one in candidates(8, TWO_NODES)] == ["8", "4x2", "2x4", "2x2x2"]
    assert [str(one) for one in candidates(7, inside)] == ["7"]


def test_the_best_of_all_is_taken():
    one = compiled("gpt", "auto", machine=SLOW, ranks=4)
    assert [tried.grid for tried in one.grids] == ["4", "2x2"]
    for tried in one.grids:
        alone = compiled_once("gpt", tried.grid).plan
        assert (tried.seconds, tried.bytes, tried.gap) == (
            alone.predicted.seconds,
            alone.predicted.bytes,
            alone.solver.gap,
        )
    assert one.plan.grid == min(one.grids, key=lambda tried: tried.seconds).grid
    assert one.plan.predicted.seconds == min(tried.seconds for tried in one.grids)
    assert_computes_the_same(one, "gpt")


def test_it_is_the_same_every_time_and_captures_once():
    first = compiled("wide_mlp", "auto", machine=QUICK, ranks=8)
    assert to_json(compiled("wide_mlp", "auto", machine=QUICK, ranks=8).plan) == to_json(first.plan)
    with mock.patch("autopar.capture.capture", side_effect=AssertionError("captured again")):
        again = first.replan(grid="auto", ranks=8)
    assert to_json(again.plan) == to_json(first.plan)
    assert first.replan(solver="ilp").plan.grid == first.plan.grid


def test_ties_go_to_fewer_axes():
    idle = dataclasses.replace(
        CPU, launch_floor=1.0, intra=dataclasses.replace(CPU.intra, alpha=10.0)
    )  # whole everywhere
    one = compiled("mlp", "auto", machine=idle, ranks=4)
    assert len({tried.seconds for tried in one.grids}) == 1
    assert one.plan.grid == "4"


def test_a_grid_without_a_plan_is_left_out():
    one = compiled("gpt", "auto", machine=SLOW, ranks=4, pin=["blocks.*.up: n@axis1"])
    assert [(tried.grid, bool(tried.refused)) for tried in one.grids] == [("4", True), ("2x2", False)]
    assert "unknown axis 'axis1'" in one.grids[0].refused
    assert one.plan.grid == "2x2"


def test_no_grid_at_all_says_why_for_each():
    with pytest.raises(InfeasiblePlan, match=r"no grid has a plan(.|\n)*- 4: memory limit(.|\n)*- 2x2: memory limit"):
        compiled("mlp", "auto", machine=SLOW, ranks=4, memory=100)
    with pytest.raises(ConfigError, match="no grid has a plan"):
        compiled("mlp", "auto", machine=SLOW, ranks=4, pin=["fc1: n@model"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": "auto"}, "the number of ranks is not given"),
        ({"grid": "auto", "ranks": 0}, "there is at least 1 rank"),
        ({"grid": "2x2", "ranks": 8}, "has 4 ranks, not 8"),
    ],
)
def test_grids_and_ranks_that_contradict(given, said):
    with pytest.raises(ConfigError, match=said):
        compiled("mlp", **given)


def test_a_grid_may_come_with_its_number_of_ranks():
    assert compiled("mlp", "2x2", ranks=4).plan == compiled("mlp", "2x2").plan


def test_what_takes_longer_even_without_the_limit_is_passed_over():
    """Over a slow link four parts of everything are slower than two halves of the net."""
    slow = dataclasses.replace(QUICK, ranks_per_node=2, inter=dataclasses.replace(QUICK.inter, beta=1e5))
    compiled = deep_net(memory="9.1MiB", plan="auto", machine=slow, depth=4)
    passed = [tried for tried in compiled.grids if tried.refused.startswith("passed over")]
    assert [(tried.grid, tried.refused.split("beside ")[1]) for tried in passed] == [
        ("4", "stage:2x2"),
        ("stage:4", "2x2"),
    ]
    for tried in passed:
        assert compiled.replan(grid=tried.grid).plan.predicted.seconds >= compiled.plan.predicted.seconds


def test_a_place_axis_is_tried_where_nothing_else_meets_the_limit():
    """A fixed plan holds all parameters on every rank; half of the layers on each of two positions fit."""
    compiled = deep_net(memory="50MiB", plan="data")
    assert compiled.plan.grid == "stage:2x2"
    refused, *_ = compiled.grids
    assert "memory limit" in refused.refused
    assert compiled.plan.predicted.bytes <= 50 * 2**20


def test_a_place_axis_is_not_tried_on_one_node_where_another_grid_has_a_plan():
    assert all(not tried.grid.startswith("stage") for tried in deep_net(memory=None, plan="auto").grids)


@functools.cache
def deep_capture(depth):
    layers = [layer for _ in range(depth) for layer in (torch.nn.Linear(512, 512), torch.nn.Tanh())]
    return capture(Net(layers), {"x": torch.randn(16, 512)}, name="net")


def deep_net(memory, plan, machine=CPU, depth=16):
    options = {"grid": "auto", "ranks": 4, "memory": memory, "plan": plan, "machine": machine}
    with mock.patch("autopar.capture.capture", return_value=deep_capture(depth)):
        return autopar.compile(torch.nn.Identity(), (), **options)


class Net(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return {"loss": self.layers(x).square().mean()}
