"""A model file is read as its user means it, and a wrong one is refused at the user's own line."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from autopar.errors import EXAMPLES, ConfigError, fix_for
from autopar.model_file import load

GOOD = """
import torch
from torch import nn

class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x):
        return self.fc(x).sum()

def model():
    return MLP()

example_inputs = {"x": torch.zeros(2, 3)}
"""


def write(folder, text, name="net.py"):
    path = folder / name
    path.write_text(text)
    return path


def refused(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "\n  rule: " in str(caught.value)
    return str(caught.value)


def test_record(tmp_path):
    path = write(tmp_path, GOOD)
    file = load(str(path))
    assert (file.path, file.name) == (path, "net")
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert isinstance(file.model(), nn.Module)
    assert file.example_inputs()["x"].shape == (2, 3)
    assert file.optimizer is None
    assert file.batches is None


def test_optimizer_and_batches(tmp_path):
    more = (
        "def optimizer(params): return torch.optim.SGD(params, lr=0.5)\ndef batches(): yield {'x': torch.ones(2, 3)}\n"
    )
    file = load(write(tmp_path, GOOD + more))
    assert file.optimizer(file.model().parameters()).defaults["lr"] == 0.5
    assert [batch["x"].sum() for batch in file.batches()] == [6]


def test_another_attribute_as_the_model(tmp_path):
    path = write(tmp_path, GOOD.replace("def model", "def make"))
    assert load(f"{path}:MLP").model.__name__ == "MLP"
    assert isinstance(load(f"{path}:MLP").model(), nn.Module)


def test_a_module_and_inputs_as_values_or_functions(tmp_path):
    text = GOOD.replace("def model():\n    return MLP()", "model = MLP()")
    file = load(write(tmp_path, text.replace('{"x": torch.zeros(2, 3)}', "lambda: [torch.zeros(2, 3)]")))
    assert isinstance(file.model, nn.Module)
    (x,) = file.example_inputs()
    assert x.shape == (2, 3)


def test_files_beside_it_and_dataclasses(tmp_path):
    write(tmp_path, "WIDTH = 3\n", "widths_of_this_test.py")
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom widths_of_this_test import WIDTH\n"
    )
    record = "@dataclass\nclass Config:\n    width: int = WIDTH\n"
    assert load(write(tmp_path, head + GOOD + record)).name == "net"


def test_two_files_of_one_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load(write(tmp_path / "a", GOOD))
    second = load(write(tmp_path / "b", GOOD.replace("Linear(3, 1)", "Linear(3, 2)")))
    assert first.model().fc.weight.shape != second.model().fc.weight.shape


def test_missing_file(tmp_path):
    write(tmp_path, GOOD, "gpt2.py")
    assert "there is no such file; did you mean 'gpt2.py'?" in refused(tmp_path / "gtp2.py")
    assert "there is no such file" in refused(tmp_path / "nowhere" / "gpt2.py")
    assert "there is no such file" in refused(f"{tmp_path}/gtp2.py:MLP")


def test_file_that_raises(tmp_path):
    text = refused(write(tmp_path, GOOD + "\ndef helper():\n    return 1 / 0\n\nwidth = helper()\n"))
    assert text.startswith("net.py:19: `return 1 / 0`: the file stops while it is loaded: ZeroDivisionError")


def test_file_that_is_no_python(tmp_path):
    assert refused(write(tmp_path, "x = 1\ny = = 2\n")).startswith("net.py:2: `y = = 2`")


def test_file_that_imports_what_is_not_there(tmp_path):
    assert refused(write(tmp_path, "import torch\nimport no_such_library\n")).startswith(
        "net.py:2: `import no_such_library`"
    )


def test_file_that_exits(tmp_path):
    assert "SystemExit" in refused(write(tmp_path, "import sys\nsys.exit(3)\n"))


def test_folder_or_text_file(tmp_path):
    assert "it is a folder" in refused(tmp_path)
    assert "no Python file" in refused(write(tmp_path, "hello", "notes.txt"))


def test_no_model(tmp_path):
    text = refused(write(tmp_path, GOOD.replace("def model", "def modle")))
    assert "it does not define model; did you mean 'modle'?" in text
    assert "net.py:NAME" in text
    assert "MLP" in text
    assert "it does not define MPL; did you mean 'MLP'?" in refused(f"{write(tmp_path, GOOD)}:MPL")


def test_model_of_a_wrong_kind(tmp_path):
    assert "model is str" in refused(write(tmp_path, "model = 'gpt2'\nexample_inputs = ()\n"))


def test_no_example_inputs(tmp_path):
    assert "did you mean 'example_input'?" in refused(write(tmp_path, GOOD.replace("example_inputs", "example_input")))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("torch.zeros(2, 3)", "put it in a tuple: (x,)"),
        ("lambda: 3", "example_inputs is int"),
        ("lambda: 1 / 0", "example_inputs stops with ZeroDivisionError"),
        ("lambda: __import__('no_such.package')", "fix: install the package that has no_such"),
    ],
)
def test_wrong_example_inputs_are_refused_when_asked_for(tmp_path, inputs, said):
    file = load(write(tmp_path, GOOD.replace('{"x": torch.zeros(2, 3)}', inputs)))
    with pytest.raises(ConfigError) as caught:
        file.example_inputs()
    assert said in str(caught.value)
    assert ("net.py:16" in str(caught.value)) == ("1 / 0" in inputs or "no_such" in inputs)


def test_optimizer_that_is_no_function(tmp_path):
    text = refused(write(tmp_path, GOOD + "optimizer = torch.optim.SGD([torch.ones(1)], lr=1)\n"))
    assert "optimizer is SGD, not a function" in text


def test_compiler_is_not_imported():
    code = "import sys, autopar.model_file;print(sorted(name for name in sys.modules if name.startswith('autopar.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['autopar.errors', 'autopar.model_file', 'autopar.version']"


@pytest.mark.parametrize("name", ["mlp", "gpt2", "resnet", "unet", "lenet5_model"])
def test_examples_give_all_four(name):
    file = load(Path(__file__).parents[1] / "examples" / f"{name}.py")
    inputs = file.example_inputs()
    assert all(isinstance(value, torch.Tensor) for value in inputs.values())
    assert file.batches is not None
    parameter = nn.Parameter(torch.ones(1))
    assert isinstance(file.optimizer([parameter]), torch.optim.Optimizer)


def test_a_package_that_the_examples_need_is_named_with_the_extra_that_has_it():
    for module, package in EXAMPLES.items():
        said = fix_for(ModuleNotFoundError("none", name=f"{module}.inner"))
        assert f"pip install {package};" in said
        assert ".[examples]" in said
    assert fix_for(ImportError("none", name="sklearn")) == "mend this line"


def test_the_examples_import_nothing_else_that_is_not_installed_with_autopar():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extra = {line.split(">")[0] for line in project["optional-dependencies"]["examples"]}
    assert set(EXAMPLES.values()) == extra
    found = {
        name.split(".")[0]
        for file in (root / "examples").glob("*.py")
        for line in file.read_text().splitlines()
        for name in re.findall(r"^ *(?:from|import) ([\w.]+)", line)
    }
    own = {file.stem for file in (root / "examples").glob("*.py")} | {"autopar", "torch", "numpy", "mpi4py"}
    assert found - own - sys.stdlib_module_names == set(EXAMPLES)
