"""``autopar run --profile`` and ``autopar report``: tables, JSON, traces, and what is refused."""

import itertools
import json
import runpy
import shutil
from pathlib import Path

import pytest
from cli_case import BLOCKS, NET, done, refused, write

from autopar.runtime import main, simulate


def profiled(program, steps=8):
    """Train the program with a profile, on two simulated ranks."""

    def rank():
        found = runpy.run_path(str(program), run_name="program")
        main(found["PROGRAM"], str(program), ["--steps", str(steps), "--profile"])

    simulate(2, rank)


@pytest.fixture(scope="module", params=["net", "blocks"])
def original(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    text = {"net": NET, "blocks": BLOCKS}[request.param]
    done("compile", write(root, text), "--grid", "2", "-o", root / "build")
    profiled(root / "build" / "program.py")
    return root


@pytest.fixture
def build(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy")) / "build"


def plan_of(build):
    return json.loads((build / "plan.json").read_text())


def test_the_report_has_every_call(build):
    out = done("report", build, "--top", "0")
    said = json.loads(done("report", build, "--json"))
    names = {row["name"] for row in said["calls"]}
    first = {place["calls"][0] for place in plan_of(build)["places"] if place["calls"]}
    assert names == first
    assert all(name in out for name in names)
    assert "whole step" in out
    assert "worst prediction first" in out
    assert not said["missing"]


def test_predictions_are_those_of_the_plan(build):
    said, plan = json.loads(done("report", build, "--json")), plan_of(build)
    totals = {row["name"]: row for row in said["totals"]}
    predicted = plan["predicted"]
    forward, backward = totals["compute, forward"]["predicted"], totals["compute, backward"]["predicted"]
    assert forward + backward == pytest.approx(predicted["compute"])
    assert sum(row["predicted"] for row in said["calls"]) == pytest.approx(predicted["compute"])
    moved = sum(row["predicted"] for row in said["primitives"])
    assert moved == pytest.approx(predicted["communication"])
    assert totals["update"]["predicted"] == predicted["update"]
    assert sum(row["times"] for row in said["calls"]) == len(plan["nodes"])


def test_parts_do_not_exceed_the_whole(build):
    profile = json.loads((build / "profile.json").read_text())
    for rank in profile["ranks"]:
        assert len(rank["steps"]) == len(rank["plain"]) == 3
        spans = rank["spans"]
        assert all(one[2] <= two[1] for one, two in itertools.pairwise(spans))
        assert spans[-1][2] in [pytest.approx(seconds) for seconds in rank["steps"]]


def test_rows_are_sorted_and_cut(build):
    said = json.loads(done("report", build, "--json"))
    off = [abs(max(row["measured"]) - row["predicted"]) for row in said["calls"]]
    assert off == sorted(off, reverse=True)
    short = done("report", build, "--top", "1")
    assert f"({len(off) - 1} more: --top 0)" in short


def test_the_trace_opens(build, tmp_path):
    out = done("report", build, "--trace", tmp_path / "trace.json")
    assert "trace.json" in out
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [one["args"]["name"] for one in trace if one["name"] == "process_name"]
    assert names == ["rank 0, measured", "rank 1, measured", "predicted"]
    lanes = {}
    for one in trace:
        if one["ph"] == "X":
            lanes.setdefault((one["pid"], one["tid"]), []).append((one["ts"], round(one["ts"] + one["dur"], 3)))
    assert {pid for pid, _ in lanes} == {0, 1, 2}
    for spans in lanes.values():
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    first = (tmp_path / "trace.json").read_bytes()
    done("report", build, "--trace", tmp_path / "trace.json")
    assert (tmp_path / "trace.json").read_bytes() == first


def test_what_was_moved_before_is_told_and_traced(build, tmp_path):
    change(build, moves=["axis0 to 0.649 after step 8"])
    assert "moved axis0 to 0.649 after step 8" in done("report", build, "--trace", tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [one["pid"] for one in trace if one["name"] == "axis0 to 0.649 after step 8"] == [0]


def test_an_edited_program_is_profiled_and_told(build):
    program = build / "program.py"
    program.write_text(program.read_text().replace("return ", "return 1.0 * ", 1))
    assert "program.py has changed since it was profiled" in refused("report", build)
    profiled(program, steps=4)
    out = done("report", build)
    assert "program.py was edited by hand" in out
    assert "in the program, not in the plan" in out


def test_no_profile_yet(build):
    (build / "profile.json").unlink()
    assert f"run `autopar run {build} --profile` first" in refused("report", build)


def test_a_plan_that_has_changed(build):
    (build / "plan.json").write_text((build / "plan.json").read_text().replace('"cost": ', '"cost": 1'))
    assert "plan.json has changed since it was profiled" in refused("report", build)


def change(build, **entries):
    file = build / "profile.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_profile_that_is_damaged_or_of_others(build):
    good = (build / "profile.json").read_text()
    read = json.loads(good)
    change(build, ranks=read["ranks"][:1])
    assert "it is of 1 ranks, and the grid has 2" in refused("report", build)
    change(build, ranks=[])
    assert "damaged" in refused("report", build)
    change(build, version=99)
    assert "schema version 99" in refused("report", build)
    change(build, version=read["version"], autopar="0.0.9", ranks=read["ranks"])
    assert "autopar 0.0.9 wrote it" in refused("report", build)
    change(build, autopar=read["autopar"], ranks=[read["ranks"][0] | {"spans": [[10**6, 0.0, 1.0]]}, read["ranks"][1]])
    assert "damaged" in refused("report", build)
    for text in (good[: len(good) // 2], "", "[]", "{}", "null"):
        (build / "profile.json").write_text(text)
        refused("report", build)
    (build / "profile.json").write_bytes(b"\xff\xfe")
    assert "damaged" in refused("report", build)


def test_a_trace_that_cannot_be_written(build, tmp_path):
    assert "cannot be written" in refused("report", build, "--trace", tmp_path / "no" / "trace.json")


def test_too_few_steps_to_profile(build):
    assert "4 steps or more" in refused("run", build, "--profile", "--steps", "3")
