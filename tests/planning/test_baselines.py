"""Fixed plans: each does what its name says, computes what the model computes, and is never cheaper than the plan that is found."""

import pytest
from compiling import QUICK, SLOW, assert_computes_the_same, compiled, compiled_once

from autopar.analysis.baseline_comparison import best, compare
from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.layout import Shard, parse_layout
from autopar.planning.baselines import BASELINES, NotApplicable

# Per model and grid the baselines that it has.
APPLY = {
    ("mlp", "2"): {"data", "model", "megatron", "zero"},
    ("gpt", "2"): {"data", "model", "megatron", "zero"},
    ("gpt", "2x2"): {"data", "model", "megatron", "zero", "integrated"},
    ("conv", "2"): {"data", "model", "domain", "zero"},
    ("conv", "2x2"): {"data", "model", "domain", "zero", "integrated"},
    ("big_image", "2"): {"model", "domain"},
    ("big_image", "2x2"): {"model", "domain"},
    ("wide_mlp", "4"): {"data", "model", "megatron", "zero"},
}
COMPUTED = [("gpt", "2x2"), ("conv", "2x2"), ("big_image", "2")]
CASES = [(model, grid, plan) for model, grid in COMPUTED for plan in sorted(APPLY[model, grid])]


def fixed(model, grid, plan):
    return compiled_once(model, grid, plan=plan)


def letters(one, *targets, axis=0):
    """What the calls of these operators do on an axis."""
    found = [node for node in one.plan.nodes if node.target.split(".")[1] in targets]
    return [node.choices[axis].letter or node.choices[axis].mode for node in found]


@pytest.mark.parametrize(("model", "grid", "machine"), [*((*case, SLOW) for case in APPLY), ("conv", "2", QUICK)])
def test_no_baseline_is_cheaper_than_the_plan(model, grid, machine):
    rows = compare(compiled_once(model, grid, machine))
    assert {row.plan for row in rows[1:] if not row.refused} == APPLY[model, grid]
    assert [row.plan for row in rows] == ["chosen", *BASELINES]
    for row in rows[1:]:
        assert bool(row.refused) == (row.cost is None)
        assert row.refused or rows[0].cost <= row.cost * (1 + 1e-9)
        assert row.refused or row.ratio == pytest.approx(rows[0].cost / row.cost)
    assert best(rows).cost == min(row.cost for row in rows[1:] if row.fits and not row.refused)


@pytest.mark.parametrize(("model", "grid", "plan"), CASES)
def test_a_fixed_plan_computes_what_the_model_computes(model, grid, plan):
    one = fixed(model, grid, plan)
    assert one.plan.options.plan == plan
    assert_computes_the_same(one, model)


def test_data_splits_the_batch_everywhere():
    one = fixed("gpt", "2x2", "data")
    for axis in (0, 1):
        assert {*letters(one, "linear", "scaled_dot_product_attention", axis=axis)} == {"b0"}
    storage = {item.name: item.layouts for item in one.plan.parameters if item.kind == "parameter"}
    del storage["position.weight"]  # it is looked up without a batch
    assert set(storage.values()) == {("copied", "copied")}


def test_zero_is_data_with_parameters_in_parts():
    one, data = fixed("gpt", "2", "zero"), fixed("gpt", "2", "data")
    assert [node.choices for node in one.plan.nodes] == [node.choices for node in data.plan.nodes]
    kept = [item.layouts[0] for item in one.plan.parameters if item.kind == "parameter"]
    assert set(kept) == {"shard 0"}
    assert one.plan.predicted.parameters_bytes == pytest.approx(data.plan.predicted.parameters_bytes / 2, rel=0.1)


def test_megatron_splits_columns_then_rows_and_heads():
    one = fixed("gpt", "2x2", "megatron")
    assert letters(one, "linear", axis=1)[:12] == ["n", "k", "n", "k"] * 3
    assert {*letters(one, "layer_norm", axis=1)} <= {"replicate", "copied"}
    attention = [node for node in one.plan.nodes if node.target.split(".")[1] == "scaled_dot_product_attention"]
    assert all(parse_layout(node.choices[1].results[0]) == Shard(1) for node in attention)  # heads
    assert {*letters(one, "linear", axis=0)} == {"b0"}


def test_domain_splits_one_spatial_dim_per_axis():
    one = fixed("big_image", "2x2", "domain")
    assert [{*letters(one, "conv2d", axis=axis)} for axis in (0, 1)] == [{"h"}, {"w"}]


def test_integrated_splits_space_and_features_over_the_first_axis():
    one = fixed("conv", "2x2", "integrated")
    assert {*letters(one, "conv2d", axis=0)} == {"h"}
    assert {*letters(one, "linear", axis=0)} == {"n"}
    assert {*letters(one, "conv2d", axis=1)} == {"n"}
    assert {*letters(fixed("gpt", "2x2", "integrated"), "linear", axis=0)} == {"n"}


@pytest.mark.parametrize(
    ("model", "grid", "plan", "why"),
    [
        ("big_image", "2", "data", "a batch of 1 cannot be cut over 2 ranks"),
        ("big_image", "2", "zero", "a batch of 1 cannot be cut over 2 ranks"),
        ("gpt", "2", "domain", "there is no spatial dim 0"),
        ("conv", "2", "megatron", "no two linear layers follow each other"),
        ("gpt", "2", "integrated", "the grid has one axis"),
        ("gpt", "1", "data", "a single rank has nothing to split"),
        ("conv", "2x2x2", "domain", "there is no spatial dim 2"),
    ],
)
def test_what_does_not_apply_says_why(model, grid, plan, why):
    with pytest.raises(NotApplicable, match=why):
        compiled(model, grid, machine=SLOW, plan=plan)


def test_unknown_plans_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'megatron'"):
        compiled("mlp", "2", plan="megatorn")


def test_a_fixed_plan_does_not_turn_into_another_to_meet_a_limit():
    data = fixed("wide_mlp", "4", "data")
    limit = data.plan.predicted.bytes * 0.8
    with pytest.raises(InfeasiblePlan):
        data.replan(memory=limit)
    assert data.replan(plan="zero", memory=limit).plan.predicted.bytes <= limit
    rows = compare(data.replan(plan="auto", memory=limit))
    assert {row.plan: row.fits for row in rows}["data"] is False
    assert best(rows).plan != "data"
