"""`autopar verify` finds a program that computes something else."""

import json

import pytest
import torch
from compiled_folder import MODEL, PROGRAM, write

from autopar.runtime import simulate
from autopar.runtime.grid.shard_bounds import sum_whole
from autopar.runtime.primitives.autograd import linear
from autopar.runtime.verification.verify import compare, main


def test_the_program_as_compiled_is_right(tmp_path, capsys):
    program = write(tmp_path)
    simulate(2, lambda: main([str(program.parent)]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok     adjoint test")
    assert [line.split()[:2] for line in lines[1:4]] == [["line", "primitive"], ["13", "copy"], ["14", "all_sum"]]
    assert len(lines) == 14
    assert all(line.startswith("ok ") for line in lines[4:])


def test_adjoints_alone(tmp_path, capsys):
    program = write(tmp_path)
    simulate(2, lambda: main([str(program.parent), "--adjoint", "--json"]))
    rows = json.loads(capsys.readouterr().out)
    assert [(row["line"], row["what"], row["shape"]) for row in rows] == [(13, "copy", [4, 3]), (14, "all_sum", [4, 2])]
    assert all(row["relative"] <= row["tolerance"] == 1e-12 for row in rows)


def test_a_wrong_adjoint_is_found(tmp_path, capsys, monkeypatch):
    """The mistake of today's stacks: an all-reduce whose backward is one again."""
    wrong = linear(sum_whole, lambda dy, axis: dy * 2)
    monkeypatch.setattr("autopar.runtime.primitives.all_sum._all_sum", wrong)
    program = write(tmp_path)
    with pytest.raises(SystemExit):
        simulate(2, lambda: main([str(program.parent), "--adjoint"]))
    said = capsys.readouterr()
    assert said.out.startswith("FAILS  adjoint test")
    assert "adjoint test: line 14: all_sum over axis0: " in said.err
    assert "backward is not the adjoint of forward" in said.err


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("/ 8", "/ 8.001", "losses"),
        ("copy(x, RANKS)", "x", None),
        (
            "all_sum(F.linear(h, p.fc2.weight), RANKS)",
            "all_sum(F.linear(h.detach(), p.fc2.weight), RANKS)",
            "gradients",
        ),
        ('"fc2.bias": [Replicate()]', '"fc2.bias": [Copied()]', "gradients"),
    ],
)
def test_a_wrong_program_is_found(tmp_path, capsys, old, new, what):
    assert old in PROGRAM
    program = write(tmp_path, program=PROGRAM.replace(old, new))
    if what is None:
        simulate(2, lambda: main([str(program.parent)]))
        return
    with pytest.raises(SystemExit):
        simulate(2, lambda: main([str(program.parent), "--json", "--steps", "2"]))
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert any(row["what"] == what and row["relative"] > row["tolerance"] for row in rows)
    assert "the program computes something else" in said.err


def test_buffers_and_float64_models(tmp_path, capsys):
    text = MODEL.replace("return Model()", "return Model().double()")
    program = write(tmp_path, model=text)
    simulate(2, lambda: main([str(program.parent), "--steps", "1"]))
    assert "DIFFER" not in capsys.readouterr().out


def test_differences_are_relative_to_the_largest():
    expected = {"a": torch.tensor([1.0, -4.0]), "zero": torch.tensor([1e-17]), "empty": torch.empty(0)}
    found = {"a": torch.tensor([1.0, -4.004]), "zero": torch.tensor([-1e-17]), "empty": torch.empty(0)}
    assert compare(found, expected) == (pytest.approx(1e-3, rel=1e-3), "a")
    assert compare(expected, expected) == (0.0, "")
    assert compare({"a": found["a"]}, expected)[0] == float("inf")
    assert compare({**expected, "a": torch.tensor([float("nan"), 0.0])}, expected)[1] == "a"
    bounds = {**expected, "low": torch.tensor([-torch.inf, 1.0]), "high": torch.tensor(torch.inf)}
    assert compare(bounds, bounds) == (0.0, "")
    assert compare({**bounds, "a": found["a"]}, bounds)[1] == "a"
    assert compare({**bounds, "low": torch.tensor([-torch.inf, 1.1])}, bounds) == (pytest.approx(0.1, rel=1e-3), "low")
    assert compare({**bounds, "low": torch.tensor([torch.inf, 1.0])}, bounds) == (float("inf"), "low")
