"""A model file that reads parts of its batches trains as one that reads whole batches does."""

import runpy
from types import SimpleNamespace

import pytest
import torch
from compiled_folder import MODEL, PROGRAM, write
from safetensors.torch import load_file

from autopar.errors import CommError, ConfigError
from autopar.runtime import main, simulate
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.verification import verify, verify_parts

PARTS = """
def batches(part):
    for step in range(part.start, 3):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
        yield {"x": part.slice("x", x), "y": part.slice("y", y)}
"""
WHOLE = PARTS.replace("part.start", "0").replace("(part)", "()").replace('part.slice("x", x)', "x")
WHOLE = WHOLE.replace('part.slice("y", y)', "y")
ROWS = PROGRAM.replace("Replicate()]", "Shard(0)]").replace('"fc1.*": [Shard(0)]', '"*": [Copied()]')
ROWS = ROWS[: ROWS.index("PARAMETERS")] + 'PARAMETERS = {"*.*": [Copied()]}\n' + ROWS[ROWS.index("\n\ndef forward") :]
ROWS = ROWS[: ROWS.index("    h = ")] + (
    """    h = torch.relu(F.linear(x, p.fc1.weight, p.fc1.bias))
    return all_sum(((F.linear(h, p.fc2.weight, p.fc2.bias) - y) ** 2).sum() / 8, RANKS)


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
"""
)


def start(program, *arguments):
    def rank():
        found = runpy.run_path(str(program), run_name="program")
        main(found["PROGRAM"], str(program), [str(word) for word in arguments])

    simulate(2, rank)


@pytest.mark.parametrize("program", [PROGRAM, ROWS], ids=["whole inputs", "rows"])
def test_the_same_to_the_bit(tmp_path, capsys, program):
    head = MODEL[: MODEL.index("def batches")]
    found = []
    for name, batches in (("whole", WHOLE), ("parts", PARTS)):
        (tmp_path / name).mkdir()
        built = write(tmp_path / name, model=head + batches, program=program)
        saved = tmp_path / f"{name}.safetensors"
        start(built, "--steps", 5, "--compare", 5, "--save", saved, "--balance", "off")
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compared")]
        assert max(float(line.split()[-1]) for line in said) < 1e-6
        found.append(([line.split("sequential")[0] for line in said], load_file(saved)))
    assert len(found[0][0]) == 5
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


BATCH = {"rows": 4, "inputs": ["x", "y"], "fixed": ""}
EVALUATE = """
def evaluate(part):
    for rows in (4, 3):
        part, generator = part.of(rows), torch.Generator().manual_seed(rows)
        x, y = torch.randn(rows, 3, generator=generator), torch.randn(rows, 2, generator=generator)
        yield {"x": part.slice("x", x), "y": part.slice("y", y)}
"""


@pytest.mark.parametrize("parts", [False, True])
def test_evaluations_are_the_sequential_models(tmp_path, capsys, parts):
    text = (
        EVALUATE
        if parts
        else EVALUATE.replace("(part)", "()").replace("part.of(rows)", "None").replace('part.slice("x", x)', "x")
    )
    text = text if parts else text.replace('part.slice("y", y)', "y")
    built = write(tmp_path, model=MODEL + text, program=ROWS, changes={"batch": BATCH})
    saved, metrics = tmp_path / "saved.safetensors", tmp_path / "metrics.csv"
    options = ("--evaluate-every", 2, "--metrics", metrics, "--save", saved, "--balance", "off")
    start(built, "--steps", 4, *options)
    head, *lines = metrics.read_text().splitlines()
    assert head == "step,loss,seconds,evaluation"
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3", "4"]
    assert [bool(line.split(",")[3]) for line in lines] == [False, True, False, True]
    found = {}
    exec(MODEL + EVALUATE, found)
    model = found["model"]()
    model.load_state_dict(load_file(saved))
    whole = SimpleNamespace(slice=lambda name, tensor: tensor, of=lambda rows: whole)
    losses = [model(**batch)["loss"].item() for batch in found["evaluate"](whole)]
    assert float(lines[3].split(",")[3]) == pytest.approx((4 * losses[0] + 3 * losses[1]) / 7, rel=1e-6)
    assert "evaluated  step 4: loss " in capsys.readouterr().out


def test_nothing_to_evaluate_on_is_said_before_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(write(tmp_path), "--evaluate-every", 2)
    assert "there is nothing to evaluate on" in capsys.readouterr().err


def verified(program):
    def rank():
        opened = open_job(runpy.run_path(str(program), run_name="program")["PROGRAM"], program, 0)
        return verify._used(opened, 0, verify_parts.first_parts(opened))

    return simulate(2, rank)[0]


def test_verify_compares_a_step_by_parts(tmp_path):
    head = MODEL[: MODEL.index("def batches")]
    found = verified(write(tmp_path, model=head + PARTS + EVALUATE, program=ROWS, changes={"batch": BATCH}))
    (by_parts,) = [row for row in found if row.case.startswith("by parts")]
    assert by_parts.relative <= by_parts.tolerance == 1e-10


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"x": part.slice("x", x)', '"x": part.slice("x", x) + bool(part.axes)', "x differs in 6 of 6 elements"),
        ('"y": part.slice("y", y)', '"y": part.slice("y", y)[:1]', r"y has shape \(1, 2\), and the part \(2, 2\)"),
    ],
)
def test_parts_that_are_not_those_of_the_whole_are_named(tmp_path, old, new, said):
    head = MODEL[: MODEL.index("def batches")]
    changed = PARTS.replace(old, new if "shape" not in said else new.replace("[:1]", "[: 1 if part.axes else None]"))
    built = write(tmp_path, model=head + changed, program=ROWS, changes={"batch": BATCH})
    with pytest.raises((ConfigError, CommError), match=said):
        verified(built)
