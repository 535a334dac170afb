"""A model with dropout, drop path and attention dropout: program and model draw the same numbers, and compute the same.

The pins split what the planner would seldom split for a model so small: the vocabulary, the query rows under a causal
mask, the keys.
"""

import functools
import runpy
from pathlib import Path

import pytest
import torch
from compiling import QUICK

import autopar.capture
from autopar.compiler import compile
from autopar.ir.grid import GridShape
from autopar.ir.plan import ModelSource
from autopar.model_file import load
from autopar.runtime import simulate
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.verification.verify import CASES, main, verify

FILE = Path(__file__).parent / "models" / "small_random.py"
VOCABULARY = ("embed: v@model", "head: n@model")
SPLITS = {  # per name the grid, pins, and letters of the attention calls
    "whatever pays": ("2", (), ()),
    "vocabulary and rows": ("data=2,model=2", VOCABULARY, ("t@data",)),
    "keys and rows": ("data=2,model=2", (), ("t@data", "s@model")),
    "heads": ("3", (), ("b1@axis0",)),
}


@functools.cache
def captured():
    file = load(FILE)
    return file, autopar.capture.capture(file.model, file.example_inputs, name="random")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def make(grid, pins=(), letters=()):
        file, graph = captured()
        monkeypatch.setattr(autopar.capture, "capture", lambda *given, **options: graph)
        calls = [node.name for node in graph.graph.nodes if "scaled_dot_product" in node.target]
        pins = [*pins, *(f"{name}: {letter}" for name in calls for letter in letters)]
        source = ModelSource(str(file.path), file.sha256, file.attribute)
        one = compile(file.model, file.example_inputs, grid=grid, machine=QUICK, name="random", source=source, pin=pins)
        return one.save(tmp_path / "build"), one.source

    return make


@pytest.mark.parametrize("name", SPLITS)
def test_the_program_computes_what_the_model_computes(folder, name):
    grid, *pins = SPLITS[name]
    path, source = folder(grid, *pins)
    torch.set_num_threads(1)
    assert "dropout(" in source
    if "vocabulary" in name:
        assert "classes=(MODEL, 15)" in source
        assert "over=(MODEL, 15)" in source
    if "rows" in name:
        assert "2: (DATA, 7)" in source

    def run():
        opened = open_job(
            runpy.run_path(str(path / "program.py"), run_name="program")["PROGRAM"], path / "program.py", 0
        )
        return verify(opened, CASES[1], 2, 0)

    differences = simulate(GridShape.parse(grid).size, run, timeout=300.0)[0]
    assert [one.what for one in differences] == ["losses", "gradients", "state"]
    assert [one for one in differences if not one.relative <= one.tolerance] == []


def test_verify_says_that_it_gives_the_model_its_random_numbers(folder, capsys):
    path, _ = folder("2")
    simulate(2, lambda: main([str(path), "--steps", "1"]), timeout=300.0)
    said = capsys.readouterr().out
    assert "note: the model draws 9 random tensors in a step; here it draws the program's numbers" in said
    assert "DIFFER" not in said


def test_a_program_that_draws_something_else_is_told_apart(folder, capsys):
    path, source = folder("2")
    program = path / "program.py"
    line = next(line for line in source.splitlines() if "rand(" in line and "import" not in line)
    program.write_text(
        source.replace(line, line.replace("rand(", "randn(")).replace("runtime import ", "runtime import randn, ")
    )
    with pytest.raises(SystemExit):
        simulate(2, lambda: main([str(path), "--steps", "1"]), timeout=300.0)
    assert "to be compared, both draw the same random tensors in the same order" in capsys.readouterr().err


def test_a_model_whose_dropout_is_always_on_is_said_to_evaluate_in_another_way():
    assert "scaled_dot_product_attention(that drops something) in evaluation" in captured()[1].evaluation
