"""A model with dropout, drop path and attention dropout: program and model draw the same numbers, and compute the same.

The pins split what the planner would seldom split for a model so small: the vocabulary, the query rows under a causal
mask, the keys.
"""

from pathlib import Path

import pytest
from compiling import compiled_file, of_file, verified

from autopar.runtime import simulate
from autopar.runtime.verification.verify import CASES, main

FILE = Path(__file__).parent / "models" / "small_random.py"
VOCABULARY = ("embed: v@model", "head: n@model")
SPLITS = {  # per name the grid, pins, and letters of the attention calls
    "whatever pays": ("2", (), ()),
    "vocabulary and rows": ("data=2,model=2", VOCABULARY, ("t@data",)),
    "keys and rows": ("data=2,model=2", (), ("t@data", "s@model")),
    "heads": ("3", (), ("b1@axis0",)),
}


@pytest.fixture
def folder(tmp_path):
    def make(grid, pins=(), letters=()):
        calls = [node.name for node in graph().nodes if "scaled_dot_product" in node.target]
        pins = [*pins, *(f"{name}: {letter}" for name in calls for letter in letters)]
        path = compiled_file(FILE, grid, tmp_path / "build", "random", any_rows=False, pin=pins)
        return path, (path / "program.py").read_text()

    return make


def graph():
    return of_file(FILE, name="random", any_rows=False)[1].graph


@pytest.mark.parametrize("name", SPLITS)
def test_the_program_computes_what_the_model_computes(folder, name):
    grid, *pins = SPLITS[name]
    path, source = folder(grid, *pins)
    assert "dropout(" in source
    if "vocabulary" in name:
        assert "classes=(MODEL, 15)" in source
        assert "over=(MODEL, 15)" in source
    if "rows" in name:
        assert "2: (DATA, 7)" in source

    differences = verified(path / "program.py", grid, CASES[1:2], steps=2)
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
    assert (
        "scaled_dot_product_attention(that drops something) in evaluation"
        in of_file(FILE, name="random", any_rows=False)[1].evaluation
    )
