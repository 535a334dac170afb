"""docs/weights.md and examples/lora.py: the script runs, and adapters train over a frozen base that costs nothing."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import autopar
from autopar.cli.commands import checkpoint, run
from autopar.ir.plan import ModelSource
from autopar.model_file import load
from autopar.runtime import simulate

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
FILE = load(ROOT / "examples" / "lora.py")
ADAPTERS = {"wide.a", "wide.b", "out.a", "out.b"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the example compiled into build, and values of its base under other names in base.safetensors."""
    folder = tmp_path_factory.mktemp("lora")
    source = ModelSource(str(FILE.path), FILE.sha256, FILE.attribute)
    inputs = FILE.example_inputs()
    autopar.compile(FILE.model, inputs, grid="2", plan="data", name="lora", source=source).save(folder / "build")
    torch.manual_seed(7)
    state = FILE.model().state_dict()
    save_file({f"old.{name}": one for name, one in state.items() if name not in ADAPTERS}, folder / "base.safetensors")
    return folder, {name: one for name, one in state.items() if name not in ADAPTERS}


def trained(model):
    optimizer = FILE.optimizer(model.parameters())
    for _, batch in zip(range(3), FILE.batches(), strict=False):
        optimizer.zero_grad()
        model(**batch).backward()
        optimizer.step()
    return optimizer


def test_the_script_of_the_page_runs(place, monkeypatch):
    folder, base = place
    monkeypatch.chdir(folder)
    (script,) = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)

    def rank():
        space = {}
        exec(script, space)
        return space["loss"], space["state"], space["adapters"]

    (loss, state, adapters), (other, _, nothing) = simulate(2, rank)
    assert torch.equal(loss, other)
    assert all(torch.equal(state[name], one) for name, one in base.items())
    assert (set(adapters), nothing) == (ADAPTERS, {})


def test_adapters_train_as_in_the_sequential_model_over_a_base_without_sums_and_state(place):
    folder, base = place

    def rank():
        parallel = autopar.load(folder / "build").parallel()
        parallel.load_weights(folder / "base.safetensors", {"old.": ""}, allow_missing=["*.a", "*.b"])
        adapters = {name: one.clone() for name, one in parallel.full_state_dict(trained_only=True).items()}
        state = trained(parallel).state_dict()["state"]
        frozen = [one.grad for one in parallel.parameters() if not one.requires_grad]
        return adapters, len(state), parallel.bucket_sizes, frozen, parallel.full_state_dict()

    for adapters, states, sums, frozen, after in simulate(2, rank):
        sequential = FILE.model()
        sequential.load_state_dict(base | adapters)
        trained(sequential)
        assert states == len(adapters) == len(ADAPTERS)
        assert sum(sums) == 4 * sum(one.numel() + 1 for one in adapters.values())  # a flag for each
        assert frozen == [None] * 4
        for name, value in sequential.state_dict().items():
            torch.testing.assert_close(after[name].detach(), value)
            assert name in ADAPTERS or torch.equal(after[name], base[name])


def test_its_commands_are_understood():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in (run, checkpoint):
        command.add(commands.add_parser(command.NAME))
    lines = re.findall(r"^    autopar ((?:run|checkpoint) .+)$", TEXT, re.MULTILINE)
    given = [parser.parse_args(shlex.split(line.split("   #")[0])) for line in lines]
    assert sum(bool(getattr(one, "weights", None)) for one in given) == 4
    assert sum(bool(getattr(one, "to", None)) for one in given) == 4
