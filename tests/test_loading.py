"""A compiled folder in a script: it runs without compiling, also edited, with values of its file, of a module, of a checkpoint."""

import logging
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import autopar
from autopar.cli.main import main
from autopar.errors import ConfigError, ProgramMismatch
from autopar.runtime import simulate

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(3, 4)
        self.register_buffer("shift", torch.rand(4), persistent=False)  # drawn, and no part of the state

    def forward(self, x):
        return (self.wide(x) + self.shift).square().mean()

def model():
    return Net()

def example_inputs():
    return {"x": torch.arange(12.0).reshape(4, 3) / 12}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("loading")
    (root / "net.py").write_text(MODEL)
    assert (
        main(["compile", str(root / "net.py"), "--grid", "2", "--pin", "wide: n@axis0", "-o", str(root / "build")]) == 0
    )
    return root / "build"


def steps(model, inputs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**inputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def on_ranks(folder, **options):
    """Losses of two steps of a folder on two ranks, nothing being compiled."""
    inputs = autopar.load(folder).model_file().example_inputs()
    with mock.patch("autopar.compiler.compile", side_effect=AssertionError):
        first, second = simulate(2, lambda: steps(autopar.load(folder).parallel(**options), inputs))
    assert first == second
    return first


def test_a_folder_runs_with_the_values_of_its_file_of_a_module_and_of_a_file_of_weights(folder, tmp_path):
    file = autopar.load(folder).model_file()
    torch.manual_seed(3)
    own = file.model()
    other = file.model()
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    assert on_ranks(folder, seed=3) == pytest.approx(steps(own, file.example_inputs()))
    inputs = file.example_inputs()
    torch.manual_seed(5)
    mixed = file.model()  # of the seed what the file of weights has not
    mixed.load_state_dict(other.state_dict())
    assert on_ranks(folder, weights=tmp_path, seed=5) == pytest.approx(steps(mixed, inputs))
    module = file.model()
    again = {name: one.clone() for name, one in [*module.named_parameters(), *module.named_buffers()]}
    found = on_ranks(folder, model=module)
    assert all(torch.equal(one, again[name]) for name, one in module.named_parameters())
    assert found == pytest.approx(steps(module, inputs))


def test_an_edited_program_runs_as_it_stands_and_that_is_said_once(folder, tmp_path, caplog):
    text = (folder / "program.py").read_text()
    (folder / "program.py").write_text(text.replace("GRID = ", "# mine\nGRID = ", 1))
    try:
        with caplog.at_level(logging.WARNING):
            on_ranks(folder)
    finally:
        (folder / "program.py").write_text(text)
    assert len([line for line in caplog.messages if "was edited" in line]) == 1
    with pytest.raises(ProgramMismatch):
        simulate(3, lambda: autopar.load(folder).parallel())


def test_a_folder_of_a_function_needs_values_and_runs_with_weights_alone(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.Flatten(0))

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build()

        def forward(self, x):
            return self.inner(x).square().mean()

    inputs = {"x": torch.ones(4, 3)}
    autopar.compile(Loss, inputs, grid="2").save(tmp_path / "build")
    whole = Loss()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="names the model file"):
        autopar.load(tmp_path / "build").model_file()

    def rank():
        folder = autopar.load(tmp_path / "build")
        with pytest.raises(ConfigError, match="nothing says what it was"):
            folder.parallel()
        parallel = folder.parallel(weights=tmp_path / "w.safetensors")
        return steps(parallel, inputs)

    assert simulate(2, rank)[0] == pytest.approx(steps(whole, inputs))
