"""`autopar diff`, and `autopar compile --grid auto`."""

import json

import pytest
from cli_case import BLOCKS, NET, done, refused, run, write

import autopar
from autopar.recompile import recompile


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    model = write(folder, BLOCKS)
    line = ["--loss", "loss", "--grid"]
    done("compile", model, *line, "2", "--plan", "data", "-o", folder / "data")
    done("compile", model, *line, "2", "--plan", "megatron", "-o", folder / "megatron")
    done("compile", model, *line, "2x2", "-o", folder / "wide")
    done("compile", write(folder, NET, "other.py"), "--grid", "2", "-o", folder / "other")
    return folder


def test_a_sentence_and_tables(root):
    out = done("diff", root / "data", root / "megatron")
    assert out.splitlines()[0].endswith("operators split in another way")
    assert "communication, " in out.splitlines()[0]
    row = next(line for line in out.splitlines() if "layers.*.wide" in line)
    assert row.split()[:4] == ["layers.*.wide", "net.py:12", "3", "linear"]
    assert "b0/axis0" in row
    assert "h = torch.relu(self.wide(x))  # [bold red]not" in out
    assert ["plan", "data", "megatron"] in [line.split() for line in out.splitlines()]
    assert "+" in out.split("exchanges of one plan alone")[1]


def test_as_json_of_other_grids(root):
    found = json.loads(done("diff", root / "data" / "plan.json", root / "wide", "--json"))
    assert found["grids"] == ["2", "2x2"]
    assert ["grid", "2", "2x2"] in found["settings"]
    assert {one["name"] for one in found["totals"]} >= {"step", "communication", "memory"}
    assert found["totals"][0]["before"] == autopar.load_plan(root / "data").predicted.seconds
    assert all(one["sign"] in "+-" for one in found["conversions"])


def test_the_same_plan_twice(root):
    assert done("diff", root / "data", root / "data").startswith("the plans are the same")


def test_rows_are_cut_with_a_word(root):
    assert "--most shows more" in done("diff", root / "data", root / "megatron", "--most", "1")


def test_refusals(root):
    assert "calls in common" in refused("diff", root / "data", root / "other")
    assert "there is no such folder" in refused("diff", root / "data", root / "nothing")


def test_grid_auto(tmp_path):
    model = write(tmp_path)
    out = done("compile", model, "--grid", "auto", "-n", "4", "-o", tmp_path / "build")
    assert out.count("chosen") == 1
    grid = autopar.load_plan(tmp_path / "build").grid
    assert grid in ("4", "2x2")
    line = next(line for line in out.splitlines() if "chosen" in line)
    assert line.split()[0] == grid
    facts = json.loads(done("compile", model, "--grid", "auto", "-n", "4", "-o", tmp_path / "again", "--json"))
    assert [one["grid"] for one in facts["grids"]] == ["4", "2x2"]
    assert facts["grid"] == grid
    assert recompile(tmp_path / "build").plan.grid == grid
    assert (tmp_path / "build" / "plan.json").read_bytes() == (tmp_path / "again" / "plan.json").read_bytes()


def test_grid_auto_needs_ranks(tmp_path):
    text = refused("compile", write(tmp_path), "--grid", "auto", "-o", tmp_path / "build")
    assert "fix: write --grid auto -n 8" in text
    assert run("compile", tmp_path / "net.py", "--grid", "auto", "-n", "0")[0] == 2
