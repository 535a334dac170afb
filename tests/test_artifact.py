"""Compiled folders: written whole or not at all, read with care, and compiled again exactly as they were."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from characters import CHARACTERS
from cli_case import BLOCKS, NET, done, refused, run, snapshot, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import autopar
from autopar import artifact as folders
from autopar.costmodel.memory import Allocation
from autopar.errors import ConfigError, PlanError
from autopar.ir.plan import VERSION
from autopar.ir.plan_file import from_json, to_json
from autopar.planning.candidate import candidate_of
from autopar.planning.infeasibility import no_plan
from autopar.planning.memory_limit import Fitted
from autopar.planning.request import Request
from autopar.recompile import recompile

CPU = Path(autopar.__file__).parents[1] / "configs" / "machines" / "cpu.toml"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model file with a compiled folder beside it."""
    root = tmp_path_factory.mktemp("original")
    done("compile", write(root), "--grid", "2", "-o", root / "build")
    return root


@pytest.fixture
def root(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


@pytest.fixture(scope="module")
def compiled():
    return autopar.compile(nn.Sequential(nn.Linear(4, 4), Total()), (torch.ones(4, 4),), grid="2", name="tiny")


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


def change(root, **entries):
    """Replace entries of plan.json."""
    file = root / "build" / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_load_gives_plan_program_and_place(root):
    saved = autopar.load(root / "build")
    assert saved.plan == autopar.load_plan(root / "build")
    assert saved.source == (root / "build" / "program.py").read_text()
    assert saved.folder == root / "build"
    assert autopar.load(str(root / "build" / "plan.json")) == saved
    assert not saved.edited


def test_edited_program_is_told_and_kept(root):
    build = root / "build"
    mine = (build / "program.py").read_text() + "# mine\n"
    (build / "program.py").write_text(mine)
    assert autopar.load(build).edited
    assert "program.py was edited by hand" in done("inspect", build)
    assert f"as {build / 'program.edited.py'}" in done("compile", root / "net.py", "--grid", "4", "-o", build)
    assert (build / "program.edited.py").read_text() == mine
    assert not autopar.load(build).edited
    (build / "program.py").write_text("another")
    done("compile", root / "net.py", "--grid", "2", "-o", build)
    assert sorted(snapshot(build)) == ["plan.json", "program.edited-2.py", "program.edited.py", "program.py"]
    assert (build / "program.edited.py").read_text() == mine


def test_program_of_somebody_else_is_kept(root, compiled):
    (root / "other").mkdir()
    (root / "other" / "program.py").write_text("print('hello')\n")
    compiled.save(root / "other")
    assert (root / "other" / "program.edited.py").read_text() == "print('hello')\n"


@pytest.mark.parametrize("writer", ["_write_text", "_write_tensors"])
@pytest.mark.parametrize("there", [False, True])
def test_failing_disk_leaves_everything_as_it_was(root, compiled, monkeypatch, writer, there):
    target = root / "build" if there else root / "new" / "build"
    before = snapshot(root)
    written = []

    def full(file, *_):
        file.write_bytes(b"half")
        written.append(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, writer, full)
    with pytest.raises(ConfigError, match="No space left on device"):
        compiled.save(target)
    assert written
    assert snapshot(root) == before


def test_tensors_of_a_former_model_are_removed(root, compiled):
    compiled.save(root / "build")
    assert "parameters.safetensors" in snapshot(root / "build")
    done("compile", root / "net.py", "--grid", "2", "-o", root / "build")
    assert sorted(snapshot(root / "build")) == ["plan.json", "program.py"]


@pytest.mark.parametrize("command", ["inspect {}", "inspect {} --json", "explain {} fc1", "run {}", "verify {}"])
def test_every_command_refuses_a_damaged_folder(root, command):
    build = root / "build"
    words = command.format(build).split()
    good = (build / "plan.json").read_text()
    change(root, version=99)
    assert "schema version 99" in refused(*words)
    change(root, version=VERSION, autopar="0.0.9")
    assert "compiled by autopar 0.0.9, and this is" in refused(*words)
    (build / "plan.json").write_text(good[:2000])
    assert "damaged: Input data was truncated" in refused(*words)
    (build / "plan.json").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(*words)
    (build / "plan.json").unlink()
    assert "the folder has no plan.json" in refused(*words)
    (build / "plan.json").write_text(good)
    (build / "program.py").unlink()
    assert f"{build / 'program.py'}: cannot be read" in refused(*words)


def test_missing_folder_suggests_one_beside_it(root):
    assert "did you mean 'build'?" in refused("inspect", root / "biuld")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"grid": "banana"}, "grid 'banana': not a grid"),
        ({"grid": "2x2"}, "fc1.weight: 1 layouts on 2 axes"),
        ({"single": -1}, "single: -1.0 is negative"),
        ({"nodes": 3}, "Expected `array`, got `int` - at `$.nodes`"),
        ({"repeats": [["h", []]]}, "repeats of 'h' has no members"),
        (
            {"inputs": [{"name": "x", "shape": [2], "dtype": "float9", "kind": "input", "layouts": ["shard 0"]}]},
            "'float9'",
        ),
        (
            {"inputs": [{"name": "x", "shape": [2], "dtype": "int64", "kind": "input", "layouts": ["shrd"]}]},
            "not a layout",
        ),
    ],
)
def test_nonsense_in_a_plan(root, entries, said):
    change(root, **entries)
    assert said in refused("inspect", root / "build")


def places(item, path=()):
    """Every path to a value in a JSON document."""
    yield path
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


def replaced(item, path, value):
    if not path:
        return value
    copy = dict(item) if isinstance(item, dict) else list(item)
    copy[path[0]] = replaced(item[path[0]], path[1:], value)
    return copy


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.text(CHARACTERS, max_size=4),
    st.sampled_from([[], {}, "split", "copied", "shard 9", "axis7", 2**70, "[/]", "\x1b[2J"]),
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_one_edit_is_refused_or_shown(original, tmp_path, data):
    """Whatever one value of a plan is replaced by, the plan is refused with a message, or every view can show it."""
    plan = json.loads((original / "build" / "plan.json").read_text())
    path = data.draw(st.sampled_from(sorted(places(plan), key=str)))
    shutil.copytree(original / "build", tmp_path / "build", dirs_exist_ok=True)
    (tmp_path / "build" / "plan.json").write_text(json.dumps(replaced(plan, path, data.draw(VALUES))))
    view = data.draw(st.sampled_from(["source", "module", "cost", "parameters"]))
    status, out, err = run("inspect", tmp_path / "build", "--view", view)
    assert (status, bool(out), bool(err)) in [(0, True, False), (1, False, True)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damaged_text_is_refused(original, data):
    text = (original / "build" / "plan.json").read_text()
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    damaged = text[:start] + data.draw(st.text(CHARACTERS, max_size=3)) + text[stop:]
    with contextlib.suppress(PlanError):  # and nothing else
        plan = from_json(damaged, "plan.json")
        assert from_json(to_json(plan), "plan.json") == plan


def test_deeply_nested_text_is_refused():
    with pytest.raises(PlanError, match="damaged"):
        from_json('{"version": 3, "autopar": ' + "[" * 100_000, "plan.json")


def test_compiled_again_it_is_the_same(tmp_path):
    """Grid, machine file, memory, solver, optimizer, pins, bans, loss and attribute all come from the plan."""
    model = write(tmp_path, BLOCKS)
    machine = tmp_path / "mine.toml"
    machine.write_text(CPU.read_text().replace('name = "cpu"', 'name = "mine"').replace("beta = ", "beta = 2"))
    line = ["--grid", "data=2,model=2", "--memory", "1GiB", "--solver", "search", "--optimizer", "momentum"]
    line += ["--loss", "mean", "--pin", "layers.*.wide: n@model", "--ban", "layers.*.slim: n@*", "--machine", machine]
    done("compile", f"{model}:Net", *line, "-o", tmp_path / "a" / "build")
    machine.unlink()
    done("compile", f"{model}:Net", "--grid", "2", "-o", tmp_path / "plain")
    for build in (tmp_path / "a" / "build", tmp_path / "plain"):
        saved = autopar.load(build)
        compiled = recompile(build)
        assert replace(compiled.plan, model=saved.plan.model) == saved.plan
        assert compiled.source == saved.source
    assert autopar.load_plan(tmp_path / "plain").model.attribute == "Net"


def test_folder_may_be_moved_together_with_its_model(root, tmp_path):
    moved = root.rename(tmp_path / "elsewhere")
    assert recompile(moved / "build").plan.name == "net"
    assert "chosen" in done("explain", moved / "build", "fc2")


def test_changed_model_file_is_refused_with_the_command_that_helps(root, monkeypatch):
    monkeypatch.chdir(root)
    write(root, NET + "\n# another comment\n")
    text = refused("explain", "build", "fc1")
    assert "the file changed since it was compiled" in text
    command = text.splitlines()[-1].removeprefix("  fix: autopar ").split()
    assert command == ["compile", "net.py", "--grid", "2", "-o", "build"]
    done(*command)
    assert "chosen" in done("explain", "build", "fc1")


def test_missing_model_file_is_refused(root):
    (root / "net.py").unlink()
    assert "its model file" in refused("explain", root / "build", "fc1")


def test_model_that_changed_although_its_file_did_not(tmp_path, monkeypatch):
    """The width comes from somewhere else, as from a library or a file that the model file imports."""
    text = "import os\n" + NET.replace("return Net()", "return Net()  # 64\n").replace(
        "4 * width", 'int(os.environ["WIDE"])'
    )
    monkeypatch.setenv("WIDE", "128")
    done("compile", write(tmp_path, text), "--grid", "2", "-o", tmp_path / "build")
    monkeypatch.setenv("WIDE", "96")
    assert "the file is the same, but the model is another" in refused("explain", tmp_path / "build", "fc1")


def test_another_plan_is_refused(root):
    plan = autopar.load_plan(root / "build")
    change(root, options=json.loads(to_json(plan))["options"] | {"pins": ["fc1: b0@axis0"]})
    assert "another plan came out" in refused("explain", root / "build", "fc1")


def test_live_module_cannot_be_compiled_again(tmp_path, compiled):
    compiled.save(tmp_path / "live")
    assert sorted(snapshot(tmp_path / "live")) == ["parameters.safetensors", "plan.json", "program.py"]
    assert "tiny was compiled from a live module" in refused("explain", tmp_path / "live", "0")
    assert "tiny, one step" in done("inspect", tmp_path / "live")
    assert compiled.explain("0").calls


def test_python_refuses_bad_options_before_the_capture():
    def never():
        raise AssertionError("captured")

    for options, said in [
        ({"grid": "2", "solver": "ipl"}, "'ipl' is unknown; did you mean 'ilp'?"),
        ({"grid": "2", "optimizer": "adam"}, "optimizer 'adam'"),
        ({"grid": "2", "time_limit": float("inf")}, "time limit"),
        ({"grid": "2", "time_limit": float("nan")}, "time limit"),
        ({"grid": "2", "memory": "much"}, "size 'much'"),
        ({"grid": "2", "machine": "cpuu"}, "no such profile"),
        ({"grid": "x"}, "not a grid"),
    ]:
        with pytest.raises(ConfigError) as caught:
            autopar.compile(never, (torch.ones(1),), **options)
        assert said in str(caught.value)


def test_names_that_would_break_the_program_text(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Total())
    compiled = autopar.compile(model, (torch.ones(4, 4),), grid="2", name='my "best"\\\n"""net')
    compile(compiled.source, "program.py", "exec")
    compiled.save(tmp_path / "build")
    assert autopar.load(tmp_path / "build").plan.name == 'my "best"\\\n"""net'


@pytest.mark.parametrize(
    ("limit", "least", "said", "fix"),
    [
        (1000.0, None, "tiny on grid 2: no choice of splits is possible", "use a smaller grid"),
        (1000.0, 3 * 2**30, "tiny on grid 2 needs 3.00 GiB per rank, 3.00 GiB more", "raise --memory to 3.00GiB"),
        (1000.0, 3 * 2**30, "the least peak found", "raise --time-limit, which cut the search short"),
    ],
)
def test_reasons_for_no_plan(compiled, limit, least, said, fix):
    missed = None
    if least is not None:
        found = candidate_of(compiled.built, compiled.solution, "adamw")
        held = replace(found.held, held=(Allocation("all", 0, 1, least, "parameters"),))
        missed = Fitted(None, replace(found, held=held), hurried="time" in fix)
    options = replace(compiled.plan.options, memory=limit)
    request = Request(compiled.subject.annotated, compiled.built.grid, compiled.plan.machine, options)
    text = str(no_plan(request, missed, ()))
    assert fix in text.partition("\n  fix: ")[2]
    assert said in text
    assert "\n  fix: " in text
