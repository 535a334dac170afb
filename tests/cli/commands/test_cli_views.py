"""`autopar inspect` and `autopar explain`: what people read, at every width, and what machines read."""

import itertools
import json
import re

import pytest
from cli_case import BLOCKS, NET, done, refused, write
from rich.cells import cell_len

import autopar
from autopar.cli.annotated_source import group
from autopar.partitioner.problem import evaluate
from autopar.planning.alternatives import explain
from autopar.recompile import recompile

VIEWS = ("source", "module", "cost", "parameters")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    done("compile", write(folder), "--grid", "2x2", "-o", folder / "build")
    return folder / "build"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    pins = ["--pin", "layers.*.wide: n@model", "--pin", "layers.*.slim: k@model"]
    done("compile", write(folder, BLOCKS), "--grid", "data=2,model=2", *pins, "-o", folder / "build")
    return folder / "build"


def test_default_view_is_the_source(net):
    out = done("inspect", net)
    assert out == done("inspect", net, "--view", "source")
    rows = [line.split() for line in out.splitlines()]
    assert ["net", "net.py"] in rows
    assert next(row for row in rows if row[:2] == ["13", "fc1"])[2:6] == ["h", "=", "F.relu(self.fc1(x))", "n/axis0"]
    assert ["+", "all_sum", "2", "KiB", "over", "axis0"] in [row[:6] for row in rows]
    assert ["linear", "b*", "k,", "n", "k,", "n?", "->", "b*", "n"] in rows


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_ends_in_the_summary(net, view):
    out = done("inspect", net, "--view", view)
    plan = autopar.load_plan(net)
    assert "net, one step on one rank, predicted" in out
    assert f"{plan.solver.method}: cost" in out
    assert f"{plan.solver.variables} variables, {plan.solver.strategies} strategies" in out
    assert "gap 0.00%" in out
    assert "grid 2x2, machine cpu, optimizer adamw" in out


@pytest.mark.parametrize("width", [100, 140, 180])
@pytest.mark.parametrize("view", VIEWS)
def test_no_line_is_wider_than_the_terminal(blocks, view, width):
    lines = done("inspect", blocks, "--view", view, columns=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    rows = done("inspect", blocks, "--view", view, columns=1000).splitlines()
    if view == "source":  # no row of the table is broken into several
        end = lines.index("")
        assert [line.split()[:2] for line in lines[2:end]] == [line.split()[:2] for line in rows[2:end]]


def test_long_code_ends_in_an_ellipsis(tmp_path):
    line = "h = F.relu(self.fc1(x)) + " + " + ".join(["0.0"] * 40)
    done(
        "compile",
        write(tmp_path, NET.replace("h = F.relu(self.fc1(x))", line)),
        "--grid",
        "2",
        "-o",
        tmp_path / "build",
    )
    shown = next(row for row in done("inspect", tmp_path / "build", columns=100).splitlines() if "h = F.relu" in row)
    assert "\u2026" in shown
    assert cell_len(shown) <= 100
    assert line in done("inspect", tmp_path / "build", columns=400)


def test_code_is_never_read_as_markup(blocks):
    code = "h = torch.relu(self.wide(x))  # [bold red]not markup[/bold red] [/] :heart:"
    assert code in done("inspect", blocks)
    assert code in done("explain", blocks, "layers.0.wide")


def test_repeated_blocks_are_shown_once_with_their_number(blocks):
    for view in VIEWS[:3]:
        out = done("inspect", blocks, "--view", view)
        assert "layers.0" in out
        assert "layers.1" not in out
    rows = [line.split() for line in done("inspect", blocks).splitlines()]
    assert ["3", "x", "layers.0", "net.py"] in rows
    calls = [
        row
        for row in (line.split() for line in done("inspect", blocks, "--view", "cost").splitlines())
        if "layers.0.wide" in row
    ]
    assert any("3" in row for row in calls)


def test_lines_stand_under_the_module_whose_forward_they_are_in(blocks):
    lines = group(autopar.load_plan(blocks))
    found = [
        (line.owner, line.module.removeprefix(line.owner), line.heaviest.code.split("(")[0].strip()) for line in lines
    ]
    assert found[:2] == [("", "head.0", "x = self.head"), ("", "head.1", "x = self.head")]
    assert ("layers.0", ".wide", "h = torch.relu") in found
    assert ("layers.0", ".slim", "return x + self.slim") in found


def test_every_call_is_in_exactly_one_line(blocks):
    plan = autopar.load_plan(blocks)
    names = [call.name for line in group(plan) for call in line.calls]
    assert len(names) == len(set(names))
    assert set(names) == {node.name for node in plan.nodes if not re.match(r"layers\.[12]\b", node.module)}


def test_every_byte_that_moves_is_in_the_source_view(blocks):
    plan = autopar.load_plan(blocks)
    sent = [one for one in plan.conversions if one.bytes_forward or one.bytes_adjoint]
    sent += [one for node in plan.nodes for one in node.inner]
    out = done("inspect", blocks)
    shown = re.findall(r"^ +\+ (\w+) .* over (\w+)", out, re.MULTILINE)
    assert sorted(shown) == sorted((one.primitive, one.axis) for one in sent)
    assert shown


def test_parameters_view(blocks):
    rows = [line.split() for line in done("inspect", blocks, "--view", "parameters").splitlines()]
    assert ["layers.2.wide.weight", "parameter", "float32", "64x32", "replicate", "|", "shard", "0"] in rows
    assert next(row for row in rows if row[:1] == ["x"])[1:4] == ["input", "float32", "16x8"]


def test_json_is_the_plan(net):
    assert done("inspect", net, "--json") == (net / "plan.json").read_text()
    assert done("inspect", net, "--json", columns=40) == (net / "plan.json").read_text()


def test_explain_marks_the_choice_and_lists_the_cheapest_first(net):
    out = done("explain", net, "fc1")
    title = out.splitlines()[:2]
    assert title == ["fc1  net.py:13  h = F.relu(self.fc1(x))", "fc1 = linear: b* k, n k, n? -> b* n"]
    assert out.count("chosen") == 1
    assert re.search(r"\d+ more", out)
    assert not re.search(r"\d+ more", done("explain", net, "fc1", "--most", "99"))
    assert len(done("explain", net, "fc1", "--most", "1").splitlines()) < len(out.splitlines())


def test_explain_json(net):
    entries = json.loads(done("explain", net, "fc*", "--json"))
    assert [entry["call"] for entry in entries] == ["fc1", "fc2"]
    for entry in entries:
        assert set(entry) == {
            "module",
            "call",
            "target",
            "letters",
            "source",
            "code",
            "times",
            "segments",
            "alternatives",
        }
        rows = entry["alternatives"]
        assert [row["choice"] for row in rows if row["chosen"]] == [rows[0]["choice"]]
        assert all(set(row["choice"]) == {"axis0", "axis1"} for row in rows)
        assert [row["change_seconds"] for row in rows] == sorted(row["change_seconds"] for row in rows)
        assert all(
            set(row) - {"choice", "chosen"} == {"own_seconds", "around_seconds", "change_seconds"} for row in rows
        )


def test_explain_takes_module_paths_calls_and_patterns(blocks):
    def calls(name):
        return [(one["module"], one["times"]) for one in json.loads(done("explain", blocks, name, "--json"))]

    assert calls("layers.0.wide") == calls("layers.?.wide") == [("layers.0.wide", 3)]
    assert calls("layers.2.wide") == [("layers.2.wide", 3)]
    assert len(calls("layers.1")) == len(calls("layers.*")) > 3
    out = done("explain", blocks, "layers.1.wide")
    assert "layers.1.wide  (3 x)" in out
    assert "Pinned calls have no other choice: layers.*.wide: n@model, layers.*.slim: k@model" in out


def test_explain_refuses_a_typo_before_the_work(net, monkeypatch):
    monkeypatch.setattr("autopar.compiler.compile", None)
    assert "did you mean 'fc1'?" in refused("explain", net, "fc11")


@pytest.fixture(scope="module")
def compiled(net):
    return recompile(net)


@pytest.mark.parametrize("name", ["fc1", "relu", "fc2", "loss"])
def test_changes_are_those_of_trying_all_layouts_of_the_tensors_beside(compiled, name):
    """The oracle: the other calls keep their choice, every layout of every tensor beside the call is tried."""
    built, now = compiled.built, compiled.solution.choice
    at = built.keys.index(f"node:{name}")
    beside = sorted({edge.a if edge.b == at else edge.b for edge in built.problem.edges if at in (edge.a, edge.b)})
    free = [i for i in beside if not built.keys[i].startswith("node:")]
    ((_, _, rows),) = explain(built, now, name).calls
    found = sorted(row.change for row in rows)

    def cost(own):
        best = float("inf")
        for layouts in itertools.product(*(range(len(built.options[built.keys[i]])) for i in free)):
            choice = list(now)
            choice[at] = own
            for i, layout in zip(free, layouts, strict=True):
                choice[i] = layout
            best = min(best, evaluate(built.problem, choice)[0])
        return best

    base = evaluate(built.problem, now)[0]
    wanted = sorted(cost(own) - base for own in range(len(built.options[f"node:{name}"])))
    assert found == pytest.approx([one for one in wanted if one < float("inf")], abs=1e-12)
    assert found[0] == pytest.approx(0, abs=1e-12)  # the plan is optimal
