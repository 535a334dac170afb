"""Plans of a graph that is divided over a place axis: what compile, inspect, explain, diff and simulate say of them."""

import dataclasses
import json

import pytest
from cli_case import BLOCKS, done, refused, write

import autopar
from autopar.ir.pipeline.measured_step import FILE, VERSION, MeasuredAction, MeasuredRank, MeasuredStep, to_json
from autopar.ir.profile import digest
from autopar.ir.units import bytes_text

VIEWS = ("source", "module", "cost", "parameters", "segments")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("divided"), BLOCKS)


@pytest.fixture(scope="module")
def pinned(model):
    """The first block on its own position."""
    folder = model.parent / "pinned"
    said = done(
        "compile",
        model,
        "--grid",
        "pipe=stage:2,data=2",
        "--pin",
        "layers.1*: pipe=1",
        "--microbatches",
        1,
        "-o",
        folder,
    )
    return folder, said


@pytest.fixture(scope="module")
def free(model):
    folder = model.parent / "free"
    facts = json.loads(
        done("compile", model, "--grid", "stage:2", "--segments", 2, "--microbatches", 1, "-o", folder, "--json")
    )
    return folder, facts


def test_compile_says_how_the_graph_is_divided(pinned):
    folder, said = pinned
    plan = autopar.load_plan(folder)
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert "graph over pipe in 2 segments; " in lines["split"]
    assert lines["split"].endswith(" over data")
    assert f"largest work {plan.placement.imbalance:.2f} x the mean" in lines["divided"]
    assert all(other.name in lines["beside"] for other in plan.placement.baselines)
    assert f"{plan.placement.makespan * 1e3:.3g} ms per step" in lines["predicted"]


def test_compile_says_it_to_programs(free):
    folder, facts = free
    placement, said = autopar.load_plan(folder).placement, facts["placement"]
    assert said["makespan"] == placement.makespan == pytest.approx(facts["predicted_seconds"])
    assert said["gap"] == placement.gap
    assert [each["bytes"] for each in said["positions"]] == list(placement.bytes)
    assert sum(segment["calls"] for segment in said["segments"]) == len(autopar.load_plan(folder).nodes)


def test_inspect_shows_segments_edges_positions_and_the_step(pinned):
    folder, _ = pinned
    plan = autopar.load_plan(folder)
    out = done("inspect", folder, "--view", "segments")
    rows = [line.split() for line in out.splitlines()]
    for number, segment in enumerate(plan.placement.segments):
        assert [str(number), segment.function, str(segment.position)] in [row[:3] for row in rows]
    for edge in plan.placement.edges:
        assert any(row[:1] == [edge.name] for row in rows if row) == bool(edge.readers)
    assert ["position", "0", "F0"] in [[*row[:2], row[2][:2]] for row in rows if len(row) == 3 and row[0] == "position"]
    assert "lower bound" in out
    assert f"gap {plan.placement.gap:.1%}" in out


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_ends_in_the_summary_and_fits_the_terminal(pinned, view):
    folder, _ = pinned
    out = done("inspect", folder, "--view", view, columns=120)
    plan = autopar.load_plan(folder)
    assert max(map(len, out.splitlines())) <= 120
    assert plan.placement.segments[0].function in out
    assert f"idle {plan.predicted.idle * 1e3:.3g} ms" in " ".join(out.split())


def test_the_source_says_in_which_segments_its_modules_stand(free):
    folder, _ = free
    plan = autopar.load_plan(folder)
    row = next(line for line in done("inspect", folder).splitlines() if "layers.0  net.py" in line)
    numbers = sorted({plan.placement.segment_of[node.name] for node in plan.nodes if node.module.startswith("layers.")})
    assert row.rstrip().endswith(", ".join(map(str, numbers)))


def test_segments_of_a_plan_without_a_place_axis_are_refused(model):
    done("compile", model, "--grid", "2", "-o", model.parent / "whole")
    assert "grid 2 has no place axis" in refused("inspect", model.parent / "whole", "--view", "segments")


def test_explain_says_where_calls_stand_and_how_to_move_them(pinned):
    folder, _ = pinned
    placement = autopar.load_plan(folder).placement
    out = done("explain", folder, "layers.1.wide")
    assert f"stands in segment 1 ({placement.segments[1].function}) on position 1" in out or "; segment 1 (" in out
    assert "--pin 'layers.1.wide: pipe=0'" in " ".join(out.split())
    [entry] = json.loads(done("explain", folder, "layers.1.wide", "--json"))
    assert sum(row["times"] for row in entry["segments"]) == entry["times"]
    assert {row["position"] for row in entry["segments"]} == {
        segment.position
        for segment in placement.segments
        if any("wide" in name or "linear" in name for name in segment.calls)
    }


def test_diff_shows_another_division(pinned, free):
    first, second = pinned[0], free[0]
    facts = json.loads(done("diff", first, second, "--json"))
    plans = [autopar.load_plan(folder) for folder in (first, second)]
    steps = next(total for total in facts["totals"] if total["name"] == "step")
    assert [steps["before"], steps["after"]] == [plan.predicted.seconds for plan in plans]
    at = [{name: segment.position for segment in plan.placement.segments for name in segment.calls} for plan in plans]
    moved = [name for name in at[0] if at[0][name] != at[1][name]]
    assert sum(place["times"] for place in facts["places"]) == len(moved)
    out = done("diff", first, second)
    assert ("calls that stand on another position" in out) == bool(moved)
    whole = done("diff", first, first.parent / "whole") if (first.parent / "whole").exists() else ""
    assert not whole or "all ranks" in whole


def test_simulate_draws_the_step(pinned, tmp_path):
    folder, _ = pinned
    placement = autopar.load_plan(folder).placement
    facts = json.loads(done("simulate", folder, "--json", "--trace", tmp_path / "step.json"))
    assert facts["step_seconds"] == placement.makespan
    assert [" ".join(each["action"] for each in row) for row in facts["actions"]] == list(placement.schedule)
    assert max(each["end"] for row in facts["actions"] for each in row) <= placement.makespan
    names = [row["args"]["name"] for row in json.loads((tmp_path / "step.json").read_text())["traceEvents"] if row["ph"] == "M"
             and row["name"] == "process_name"]  # fmt: skip
    assert names == ["predicted, position 0", "predicted, position 1"]
    assert "position 1  ." in done("simulate", folder)
    assert "the graph is divided over a place axis" in refused("simulate", folder, "--slow", "0:2")
    assert "there is none" in refused("report", folder)


def test_report_sets_the_measured_step_beside_the_predicted_one(pinned, tmp_path):
    folder, _ = pinned
    placement = autopar.load_plan(folder).placement
    rows = json.loads(done("simulate", folder, "--json"))["actions"]
    ranks = tuple(
        MeasuredRank(i, i, tuple(MeasuredAction(a["action"], a["start"], a["end"], 0.0) for a in row), (3 + i) << 20)
        for i, row in enumerate(rows)
    )
    program = (folder / "program.py").read_text()
    step = MeasuredStep(VERSION, digest(program), 2 * placement.makespan, ranks)
    (folder / FILE).write_text(to_json(step))
    out = done("report", folder)
    facts = json.loads(done("report", folder, "--json", "--trace", tmp_path / "trace.json"))
    assert "was measured on position" not in out
    swapped = dataclasses.replace(
        step, ranks=tuple(dataclasses.replace(one, position=1 - one.position) for one in ranks)
    )
    (folder / FILE).write_text(to_json(swapped))
    assert "was measured on position 1; the plan has it on 0" in done("report", folder)
    (folder / FILE).write_text(to_json(step))
    again = json.loads(done("replan", folder, "-o", tmp_path / "again", "--json"))
    slower = step.after / max(placement.update)
    new, old = (autopar.load_plan(one).machine.update_rate("adamw") for one in (tmp_path / "again", folder))
    assert new == pytest.approx(old / slower)
    assert all(one[way] == pytest.approx(1, rel=0.02) for one in again["operators"] for way in ("forward", "backward"))
    (folder / FILE).unlink()
    kinds = {(action[0], int(action[1])) for row in placement.schedule for action in row.split()}
    assert len(facts["beside"]) == len(kinds)
    assert all(row["measured"] == pytest.approx(row["predicted"]) for row in facts["beside"])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    for action in placement.schedule[0].split():  # once as measured, once as predicted
        assert [event["name"] for event in events].count(action) == 2
    held = [line for line in out.splitlines() if "MiB" in line]
    for line, *sizes in zip(held, placement.bytes, (3 << 20, 4 << 20), strict=True):
        assert all(bytes_text(size) in line for size in sizes)
    predicted, measured = (part.split("\n\n")[0] for part in out.split("position 0  ")[1:])
    assert predicted.startswith("F0")
    assert measured.startswith("F0")
    assert len(measured.split("\n")[0].rstrip(".")) < 0.7 * len(predicted.split("\n")[0].rstrip("u."))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "2", "--segments", "2"], "no place axis"),
        (["--grid", "stage:2", "--pin", "layers.0*: stage=2"], "no position '2'"),
    ],
)
def test_bad_wishes_are_refused_before_the_capture(model, words, said):
    assert said in refused("compile", model, "-o", model.parent / "none", *words)
    assert not (model.parent / "none").exists()
