"""`autopar compare`, and `autopar compile --plan`."""

import json

import pytest
from cli_case import done, refused, write

import autopar
from autopar.recompile import recompile


def test_the_table_has_the_plan_and_every_baseline(tmp_path):
    model = write(tmp_path)
    out = done("compare", model, "--grid", "2")
    assert "net on grid 2, one step on one rank, predicted" in out
    for name in ("chosen", "data", "model", "megatron", "zero"):
        assert f"\n {name} " in out
    assert "\nno domain: there is no spatial dim" in out
    assert "\nno integrated: the grid has one axis" in out
    assert "The chosen plan costs " in out


def test_as_json(tmp_path):
    rows = json.loads(done("compare", write(tmp_path), "--grid", "2", "--memory", "1MiB", "--json"))
    by_name = {row["plan"]: row for row in rows}
    assert rows[0]["plan"] == "chosen"
    assert rows[0]["fits"]
    assert by_name["data"]["fits"]
    assert by_name["domain"]["refused"].startswith("there is no spatial dim")
    assert all(row["ratio"] <= 1 for row in rows if row["fits"])
    assert all(
        (row["cost"] is None) == bool(row["refused"]) for row in rows
    )  # a plan that is none cannot be the cheapest


@pytest.mark.parametrize("plan", ["data", "zero"])
def test_a_fixed_plan_is_a_folder_like_any_other(tmp_path, plan):
    done("compile", write(tmp_path), "--grid", "2", "--plan", plan, "-o", tmp_path / "build")
    saved = autopar.load(tmp_path / "build")
    assert saved.plan.options.plan == plan
    assert recompile(tmp_path / "build").source == saved.source
    assert f"plan {plan}" in done("inspect", tmp_path / "build")


def test_what_does_not_apply_is_refused(tmp_path):
    text = refused("compile", write(tmp_path), "--grid", "2", "--plan", "domain", "-o", tmp_path / "build")
    assert "plan 'domain' for net on grid 2: does not apply" in text
    assert not (tmp_path / "build").exists()
