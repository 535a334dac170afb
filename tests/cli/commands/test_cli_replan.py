"""``autopar replan``: a plan by what a run has measured, as a folder, in Python, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from cli_case import NET, done, refused, write

import autopar
from autopar.ir import machine as machines
from autopar.ir.profile import FILE, VERSION, Expression, Piece, Profile, RankProfile, digest, to_json
from autopar.version import __version__

SLOW, DEAR = 2.0, 3.0  # rank 1, and linear layers


def measured(folder, slow=(1.0, SLOW)):
    """A profile of the folder's program in which linear layers take three times as long as predicted, and a rank twice."""
    plan, nodes = autopar.load_plan(folder), {node.name: node for node in autopar.load_plan(folder).nodes}
    pieces = []
    for i, place in enumerate(plan.places):
        for name in place.calls:
            dear = DEAR if "linear" in nodes[name].target else 1.0
            pieces += [("forward", i, nodes[name].seconds_forward * dear)]
            pieces += [("backward", i, nodes[name].seconds_backward * dear)]
        if place.conversion is not None:
            pieces += [("communication", i, plan.conversions[place.conversion].seconds)]
    ranks = []
    for rank, factor in enumerate(slow):
        took = [Piece(kind, i, 0, s * (1 if kind == "communication" else factor), 8) for kind, i, s in pieces]
        took.append(Piece("update", None, 0, plan.predicted.update * factor, 0))
        ranks.append(RankProfile(rank, "here", (1.0,), (sum(one.seconds for one in took),), tuple(took), (), (), (), 0))
    expressions = tuple(Expression(place.function, 1, 1, place.text, i) for i, place in enumerate(plan.places))
    hashes = [digest((folder / name).read_text()) for name in ("program.py", "plan.json")]
    profile = Profile(VERSION, __version__, *hashes, plan.grid, expressions, tuple(ranks))
    (folder / FILE).write_text(to_json(profile))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("net")
    wide = NET.replace("width=64", "width=96").replace("8, 64", "96, 96")
    done("compile", write(root, wide), "--grid", "data=2", "--plan", "data", "-o", root / "build")
    measured(root / "build")
    return root


@pytest.fixture
def build(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy")) / "build"


def test_what_was_measured_is_planned_for(build):
    before = (build / "plan.json").read_bytes()
    out = done("replan", build, "--machine-file", build / "machine.toml")
    assert (build / "plan.json").read_bytes() == before
    new, old = autopar.load_plan(build.with_name("build_replanned")), autopar.load_plan(build)
    assert dict(new.cuts)["data"][1] == pytest.approx(2 / 3, abs=0.02)
    assert (new.grid, new.graph_sha256) == (old.grid, old.graph_sha256)
    assert new.machine.speeds(2) == pytest.approx((1.0, 1 / SLOW), rel=0.02)
    assert new.machine.factors("aten.linear.default") == pytest.approx((DEAR, DEAR), rel=0.03)
    assert new.machine.factors("aten.relu.default") == pytest.approx((1, 1), rel=0.03)
    assert "data at 0.66" in out
    assert "(was: equal parts)" in out
    assert "rank 1 0.5" in out
    assert machines.load(build / "machine.toml") == new.machine


def test_a_plan_that_was_right_stays_and_the_second_replan_too(build):
    first = autopar.replan(build)
    again = first.save(build.with_name("again"))
    measured(again, slow=(1.0, 1.0))
    rows = {row.name: row for row in first.rows}
    assert rows["whole step"].measured > rows["whole step"].predicted
    assert rows["inputs"].replanned is None
    said = json.loads(done("replan", again, "-o", again, "--json"))
    assert said["folder"] == str(again)
    linear = {one["operator"]: one for one in said["operators"]}["aten.linear.default"]
    assert linear["forward"] == pytest.approx(DEAR * DEAR, rel=0.05)


def test_what_is_refused(build, tmp_path):
    other = Path(shutil.copytree(build, tmp_path / "other"))
    done("compile", build.parent / "net.py", "--grid", "2", "--plan", "model", "-o", other)
    said = refused("replan", build, "--profile", other / FILE)
    assert f"it is of another build: net on grid 2, in {other}" in said
    assert f"autopar replan {other}" in said
    profile = json.loads((build / FILE).read_text())
    (build / FILE).write_text(json.dumps(profile | {"moves": ["data to 0.649 after step 8: rank 1"]}))
    assert "data to 0.649 after step 8" in refused("replan", build)
    (build / FILE).unlink()
    assert f"run `autopar run {build} --profile` first" in refused("replan", build)
