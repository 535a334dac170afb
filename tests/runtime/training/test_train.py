"""What a program does when it is run, on simulated ranks: training, comparing, saving, and mistakes told once."""

import json
import runpy

import pytest
import torch
from compiled_folder import MODEL, PROGRAM, write
from safetensors.torch import load_file, save_file

from autopar.runtime import main, simulate


def start(program, *arguments, files=None):
    """Run the program on two simulated ranks, as files of these names if they differ from rank to rank."""

    def rank():
        found = runpy.run_path(str(program), run_name="program")
        path = program if files is None else files[found["GRID"].rank]
        main(found["PROGRAM"], str(path), [str(word) for word in arguments])

    simulate(2, rank)


def sequential(steps, seed):
    found = {}
    exec(MODEL, found)
    torch.manual_seed(seed)
    model = found["model"]()
    optimizer = found["optimizer"](model.parameters())
    batches = [*found["batches"](), *found["batches"]()]
    for batch in batches[:steps]:
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    return model


def test_training_compares_and_saves_under_the_original_names(tmp_path, capsys):
    saved = tmp_path / "out.safetensors"
    start(write(tmp_path), "--steps", 5, "--compare", 2, "--save", saved, "--seed", 3)
    said = capsys.readouterr().out.splitlines()
    differences = [float(line.split()[-1]) for line in said if line.startswith("compared")]
    assert len(differences) == 2
    assert max(differences) < 1e-6
    assert [line.split()[0] for line in said[-5:]] == ["trained", "balance", "saved", "plan", "program"]
    assert sum(line.startswith("step ") for line in said) == 5
    model = sequential(5, 3)
    model.load_state_dict(found := load_file(saved))
    for name, one in sequential(5, 3).state_dict().items():
        torch.testing.assert_close(found[name], one)
    assert list(tmp_path.glob("*.tmp")) == []


def test_another_dtype(tmp_path, capsys):
    start(write(tmp_path), "--steps", 2, "--compare", 2, "--dtype", "float64", "--save", tmp_path / "out.safetensors")
    said = capsys.readouterr().out.splitlines()
    assert max(float(line.split()[-1]) for line in said if line.startswith("compared")) < 1e-14
    assert load_file(tmp_path / "out.safetensors")["fc1.weight"].dtype == torch.float64


def test_example_inputs_where_there_are_no_batches(tmp_path, capsys):
    start(
        write(tmp_path, model=MODEL[: MODEL.index("def optimizer")]), "--steps", 3, "--compare", 3, "--balance", "off"
    )
    assert "difference 0" in capsys.readouterr().out


STOCK = {
    "sgd": "torch.optim.SGD(parameters, lr=1e-3)",
    "momentum": "torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)",
    "adamw": "torch.optim.AdamW(parameters, lr=1e-3)",
}


@pytest.mark.parametrize("name", sorted(STOCK))
def test_the_plans_optimizer_where_the_file_has_none(tmp_path, capsys, name):
    own, saved = tmp_path / "own", tmp_path / "stock"
    model = MODEL[: MODEL.index("def optimizer")]
    for folder, text in ((own, f"{model}def optimizer(parameters):\n    return {STOCK[name]}\n"), (saved, model)):
        folder.mkdir()
        program = write(folder, model=text, changes={"options": {"optimizer": name}})
        start(program, "--steps", 3, "--balance", "off", "--save", folder / "out.safetensors")
    expected, found = load_file(own / "out.safetensors"), load_file(saved / "out.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert "trained    3 steps" in capsys.readouterr().out


def test_a_module_made_by_the_file_is_rank_0s(tmp_path, capsys):
    text = MODEL.replace("def model():\n    return Model()", "torch.seed()\nmodel = Model()")
    start(write(tmp_path, model=text), "--steps", 1)
    assert "trained    1 steps" in capsys.readouterr().out


def test_a_live_model_has_no_batches(tmp_path, capsys):
    program = write(tmp_path)
    plan = json.loads((program.parent / "plan.json").read_text())
    plan["model"] = {"path": "", "sha256": "", "attribute": "model"}
    (program.parent / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SystemExit):
        start(program)
    assert "compiled from a function or a class in Python" in capsys.readouterr().err
    save_file(sequential(0, 0).state_dict(), program.parent / "parameters.safetensors")
    with pytest.raises(SystemExit):
        start(program)
    assert "compiled from a live model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged: not JSON"),
        ("[]", "damaged: it holds a list"),
        ('{"version": 9}', "schema version 9"),
        ('{"version": 3, "autopar": "0.0.0"}', "compiled by autopar 0.0.0"),
    ],
)
def test_a_plan_that_is_damaged_or_of_another_version(tmp_path, capsys, text, said):
    program = write(tmp_path)
    (program.parent / "plan.json").write_text(text)
    refused(capsys, said, lambda: start(program))


@pytest.mark.parametrize("entry", ["name", "grid", "model", "inputs", "parameters", "program_sha256"])
@pytest.mark.parametrize(
    "value", [None, 3, [3], {}, [{"name": "x", "shape": [-1], "dtype": "float32", "kind": "parameter"}]]
)
def test_a_plan_with_an_entry_of_another_kind(tmp_path, capsys, entry, value):
    program = write(tmp_path, changes={entry: value})
    refused(capsys, "damaged: ", lambda: start(program))


def test_a_plan_for_another_grid(tmp_path, capsys):
    refused(capsys, "the program is for grid 2, the plan for 4", lambda: start(write(tmp_path, changes={"grid": "4"})))


def test_ranks_that_read_different_files(tmp_path, capsys):
    program = write(tmp_path)
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", program=PROGRAM + "\n")
    refused(capsys, "the ranks do not agree", lambda: start(program, files=[program, other]))


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        (MODEL, ["--step", "3"], "unknown option --step; did you mean '--steps'?"),
        (MODEL, ["--steps", "many"], "invalid int value"),
        (MODEL, ["--steps", "-1"], "--steps -1 is negative"),
        (MODEL.replace("torch.randn(4, 3,", "torch.randn(6, 3,"), [], "x has shape (6, 3), compiled for (4, 3)"),
        (MODEL.replace("range(3)", "range(0)"), [], "batches() yields nothing"),
        (MODEL.replace("nn.Linear(5, 2)", "nn.Linear(5, 3)"), [], "fc2.weight has shape (3, 5), the model's is (2, 5)"),
        (MODEL.replace("self.fc2 =", "self.fc3 = self.fc2 ="), ["--steps", "0"], None),
        (MODEL.replace("lr=0.05", "lr=-1"), [], "Invalid learning rate"),
        (MODEL.replace("def model()", "def mode()"), [], "does not define model; did you mean 'mode'?"),
    ],
)
def test_mistakes_are_told_once(tmp_path, capsys, model, arguments, said):
    program = write(tmp_path, model=model)
    if said is None:
        start(program, *arguments)
    else:
        refused(capsys, said, lambda: start(program, *arguments))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('{"fc1.*": [Shard(0)], "fc2.weight": [Shard(1)]}', "fc2.bias has no layout"),
        (
            '{"*.*": [Shard(0)], "fc2.wieght": [Shard(1)]}',
            "'fc2.wieght' matches no parameter; did you mean 'fc2.weight'?",
        ),
        ('{"*.*": [Shard(1)]}', "fc1.bias: shard 1 over axis0, but its shape is (5,)"),
        ('{"*.*": [Shard(0, 3)]}', "3 x 1 does not divide"),
        ('{"*.*": [Shard(0), Replicate()]}', "2 layouts for the 1 axes"),
        (
            '{"fc1.*": [Shard(0)], "*.bias": [Replicate()], "fc2.weight": [Replicate()]}',
            "fc1.bias is given different layouts",
        ),
    ],
)
def test_a_table_of_layouts_that_does_not_fit(tmp_path, capsys, table, said):
    line = next(line for line in PROGRAM.splitlines() if line.startswith("PARAMETERS"))
    program = write(tmp_path, program=PROGRAM.replace(line, f"PARAMETERS = {table}"))
    refused(capsys, said, lambda: start(program))


def test_inputs_that_the_program_does_not_know(tmp_path, capsys):
    program = write(tmp_path, program=PROGRAM.replace('"y": [Replicate()]}', '"z": [Replicate()]}'))
    refused(capsys, "y has no layout", lambda: start(program))


def test_nothing_half_written_where_saving_fails(tmp_path, capsys):
    saved = tmp_path / "missing" / "out.safetensors"
    refused(capsys, "failed on rank 0 of 2", lambda: start(write(tmp_path), "--steps", 1, "--save", saved))
    assert not saved.parent.exists()


def test_help_is_printed_once(tmp_path, capsys):
    start(write(tmp_path), "--help")
    assert capsys.readouterr().out.count("usage:") == 1


def refused(capsys, said, action):
    """The action ends every rank with status 1, having printed one message."""
    with pytest.raises(SystemExit) as ended:
        action()
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert message.count("  rule: ") == 1


def test_an_edited_program_runs_and_is_noted(tmp_path, capsys):
    program = write(tmp_path)
    program.write_text(PROGRAM.replace("/ 8", "/ 4"))
    (tmp_path / "model.py").write_text(MODEL + "\n")
    start(program, "--steps", 2)
    said = capsys.readouterr().out
    assert "note: program.py was edited" in said
    assert "note: model.py has changed" in said
