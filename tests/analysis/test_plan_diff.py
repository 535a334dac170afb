"""What differs between two plans: totals, splits, homes and conversions, of any grids, of one model or of two that are alike."""

import pytest
from compiling import CPU, SLOW, compiled

from autopar.analysis.plan_diff import diff
from autopar.cli.commands.diff import sentence
from autopar.errors import PlanError


@pytest.fixture(scope="module")
def free():
    return compiled("gpt", "2", machine=SLOW)


def test_a_plan_does_not_differ_from_itself(free):
    found = diff(free.plan, free.plan)
    assert (found.settings, found.calls, found.homes, found.conversions) == ((), (), (), ())
    assert found.apart == ((), ())
    assert sentence(found) == "the plans are the same"


def test_blocks_that_differ_alike_are_one_row(free):
    data, megatron = free.replan(plan="data").plan, free.replan(plan="megatron").plan
    found = diff(data, megatron)
    assert found.settings == (("plan", "data", "megatron"),)
    row = next(one for one in found.calls if one.module == "blocks.*.up" and one.target.startswith("aten.linear"))
    assert (row.times, row.before, row.after) == (3, "b0/axis0", "n/axis0")
    nodes = [[node for node in plan.nodes if node.module.endswith(".up")] for plan in (data, megatron)]
    sums = [sum(node.seconds_forward + node.seconds_backward for node in side) for side in nodes]
    assert [row.seconds_before, row.seconds_after] == pytest.approx(sums)
    assert row.source.startswith("small_models.py:") or ":" in row.source
    homes = {one.name: one for one in found.homes}
    assert homes["blocks.*.up.weight"].times == 3
    assert (homes["blocks.*.up.weight"].before, homes["blocks.*.up.weight"].after) == (("copied",), ("shard 0",))
    assert found.moved == sum(a.choices[0].letter != b.choices[0].letter or a.choices[0].mode != b.choices[0].mode
                              for a, b in zip(data.nodes, megatron.nodes, strict=True))  # fmt: skip
    assert f"{found.moved} operators split in another way" in sentence(found)


def test_totals_are_those_of_the_plans(free):
    data, zero = free.replan(plan="data").plan, free.replan(plan="zero").plan
    found = diff(data, zero)
    totals = {one.name: one for one in found.totals}
    assert (totals["step"].before, totals["step"].after) == (data.predicted.seconds, zero.predicted.seconds)
    assert (totals["memory"].before, totals["memory"].after) == (data.predicted.bytes, zero.predicted.bytes)
    assert totals["memory"].change == pytest.approx(zero.predicted.bytes / data.predicted.bytes - 1)
    assert found.calls == ()
    gathers = [one for one in found.conversions if one.sign == "+"]
    assert {one.primitive for one in gathers} in ({"all_gather"}, {"gather", "copy"})
    there, here = (
        sum(one.times * (one.bytes_forward + one.bytes_adjoint) for one in plan.conversions) for plan in (data, zero)
    )
    assert sum(one.bytes for one in gathers) == pytest.approx(here - there)


def test_the_other_way_round_is_the_mirror(free):
    other = free.replan(plan="megatron")
    there, back = diff(free.plan, other.plan), diff(other.plan, free.plan)
    assert [(one.before, one.after) for one in there.calls] == [(one.after, one.before) for one in back.calls]
    flipped = {"-": "+", "+": "-"}
    assert sorted((flipped[one.sign], one.primitive, one.value, one.times) for one in there.conversions) == sorted(
        (one.sign, one.primitive, one.value, one.times) for one in back.conversions
    )


def test_grids_and_machines_may_differ(free):
    found = diff(free.replan(plan="data").plan, free.replan(plan="data", grid="2x2", machine=CPU).plan)
    assert found.settings == (("grid", "2", "2x2"), ("machine", "slow", "cpu"))
    assert not [one for one in found.calls if one.before == "b0/axis0" and one.after == "b0/axis0 b0/axis1"]
    assert all(len(one.before) == 1 and len(one.after) == 2 for one in found.homes)


def test_plans_of_models_that_share_most_are_compared_there():
    found = diff(compiled("gpt", "2").plan, compiled("wide_gpt", "2").plan)
    assert ("model", *(f"{name} ({len(compiled(name, '2').plan.nodes)} calls)" for name in ("gpt",)))[
        1
    ] in found.settings[-1]
    assert found.names == ("gpt", "wide_gpt")


def test_plans_of_other_models_are_refused(free):
    with pytest.raises(PlanError, match="gpt and conv have 3 of 68 and 10 calls in common"):
        diff(free.plan, compiled("conv", "2").plan)
