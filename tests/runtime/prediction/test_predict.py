"""What `autopar predict` writes is what the sequential model computes in evaluation, however the model is split."""

import argparse
import runpy

import numpy as np
import pytest
import torch
from compiled_folder import write
from compiling import compiled_file
from safetensors.torch import load_file, save_file

import autopar
from autopar.errors import ConfigError
from autopar.ir.grid import GridShape
from autopar.runtime import main, simulate
from autopar.runtime.prediction.predict import predict
from autopar.runtime.session.compiled_job import open_job, sequential

MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv1d(4, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x, y):
        h = F.dropout(self.second(F.silu(self.norm(self.first(x)))), 0.5, self.training)
        z = self.head(h.mean(-1))
        return {"loss": F.cross_entropy(z, y), "logits": z, "map": h, "kernel": self.second.weight[:, :, 0] * 2}


model = Net


def example_inputs():
    return {"x": torch.zeros(8, 2, 12), "y": torch.zeros(8, dtype=torch.int64)}


def whole():
    return torch.randn(21, 2, 12, generator=torch.Generator().manual_seed(3))


def batches(part):
    raise AssertionError("read")


def inputs(part):
    for first, rows in ((0, 8), (8, 8), (16, 5)):
        yield {"x": part.of(rows).slice("x", whole(), first=first)}
"""
NAMES = ("logits", "map", "kernel")
GRIDS = {"data 2": ("2", "data", {}), "data 3": ("3", "data", {}), "domain 2": ("2", "domain", {}), "model 3": ("3", "model", {}),
         "both": ("2x2", "integrated", {}), "places": ("stage:2", "auto", {"microbatches": 2}),
         "micro-batches": ("2", "data", {"microbatches": 2}), "queue": ("queue:2", "auto", {"microbatches": 4})}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def built(file):
    """Folders by the name of a grid, each compiled once."""
    made = {}

    def one(name):
        if name not in made:
            grid, plan, options = GRIDS[name]
            folder = file.parent / name.replace(" ", "_")
            made[name] = compiled_file(file, grid, folder, "net", outputs=NAMES, plan=plan, **options)
        return made[name], grid_size(name)

    return one


def grid_size(name):
    return GridShape.parse(GRIDS[name][0]).size


def start(folder, ranks, output, **given):
    """The lines that are told."""
    words = {"inputs": None, "output": output, "checkpoint": None, "weights": None, "seed": 5, "dtype": None}
    options = argparse.Namespace(**words | {"rename": [], "allow_missing": [], "allow_unexpected": []} | given)
    path = folder / "program.py"

    def rank():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, options.seed)
        return list(predict(opened, options)), sequential(opened, options.seed).eval()

    return simulate(ranks, rank)[0]


def expected(model, x):
    with torch.no_grad():
        return model(x, torch.zeros(len(x), dtype=torch.int64))


def data(file):
    return runpy.run_path(str(file))["whole"]()


@pytest.mark.parametrize("name", GRIDS)
def test_outputs_are_the_sequential_models(built, file, tmp_path, name):
    x = data(file)
    np.savez(tmp_path / "in.npz", x=x.numpy())
    _, model = start(*built(name), tmp_path / "out", inputs=tmp_path / "in.npz")
    for output in ("logits", "map"):
        found = torch.from_numpy(np.load(tmp_path / "out" / f"{output}.npy"))
        torch.testing.assert_close(found, expected(model, x)[output], rtol=1e-5, atol=1e-6)
    kernels = np.load(tmp_path / "out" / "kernel.npy")  # without rows: as of every batch
    assert kernels.shape == (3, 6, 4)
    torch.testing.assert_close(torch.from_numpy(kernels[2]), expected(model, x)["kernel"], rtol=1e-6, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kernel.npy", "logits.npy", "map.npy"]


@pytest.mark.parametrize("rows", [1, 8, 19])
def test_any_number_of_rows_from_and_into_one_file(built, file, tmp_path, rows):
    x = data(file)[:rows].contiguous()
    save_file({"x": x}, tmp_path / "in.safetensors")
    lines, model = start(*built("data 3"), tmp_path / "out.safetensors", inputs=tmp_path / "in.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    for output in NAMES[:2]:
        torch.testing.assert_close(found[output], expected(model, x)[output], rtol=1e-5, atol=1e-6)
    assert lines[-1].startswith(f"predicted  {rows} rows in {-(-rows // 8)} batch")


@pytest.mark.parametrize("name", ["domain 2", "places"])
def test_what_the_model_file_yields_by_parts(built, file, tmp_path, name):
    _, model = start(*built(name), tmp_path / "out")
    for output in ("logits", "map"):
        found = torch.from_numpy(np.load(tmp_path / "out" / f"{output}.npy"))
        torch.testing.assert_close(found, expected(model, data(file))[output], rtol=1e-5, atol=1e-6)


def refused(match, *args, **given):
    with pytest.raises(ConfigError, match=match):
        start(*args, **given)


def test_what_does_not_fit_is_refused_before_anything_is_written(built, file, tmp_path):
    folder, out = built("data 2"), tmp_path / "out"
    arrays = {
        "x is missing": {"z": np.zeros((3, 2, 12))},
        "compiled for .any, 2, 12.": {"x": np.zeros((3, 2, 13), np.float32)},
        "x is int64, compiled for float32": {"x": np.zeros((3, 2, 12), np.int64)},
        "they differ in their rows": {"x": np.zeros((3, 2, 12)), "y": np.zeros(4, np.int64)},
        "there are no rows": {"x": np.zeros((0, 2, 12))},
    }
    for match, content in arrays.items():
        np.savez(tmp_path / "in.npz", **content)
        refused(match, *folder, out, inputs=tmp_path / "in.npz")
    np.savez_compressed(tmp_path / "in.npz", x=np.zeros((3, 2, 12)))
    refused("it is compressed", *folder, out, inputs=tmp_path / "in.npz")
    np.save(tmp_path / "in.npy", np.zeros((3, 2, 12)))
    refused("a .npy file holds one array", *folder, tmp_path / "out.npy", inputs=tmp_path / "in.npy")
    refused("ends in .txt", *folder, tmp_path / "out.txt", inputs=tmp_path / "in.npy")
    refused("there is no such file", *folder, out, inputs=tmp_path / "nowhere.npy")
    refused("cannot be written as the batches come", *folder, tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_a_program_that_returns_its_loss_alone(tmp_path):
    refused("compile with --return", write(tmp_path).parent, 2, tmp_path / "out.npy")


def test_a_queue_takes_no_parts_and_says_so_before_any_are_read(built, tmp_path, capsys):
    folder, ranks = built("queue")
    refused(r"inputs\(part\) on grid queue:2", folder, ranks, tmp_path / "out")
    path = folder / "program.py"

    def rank():
        main(runpy.run_path(str(path), run_name="program")["PROGRAM"], str(path), ["--steps", "1"])

    with pytest.raises(SystemExit):
        simulate(ranks, rank)
    assert "batches(part) on grid queue:2" in capsys.readouterr().err


def test_inputs_that_are_read_by_parts_are_predicted_by_parts(file, tmp_path):
    for name in ("domain 2", "both", "places"):
        grid, plan, options = GRIDS[name]
        whole, parts = (
            autopar.load_plan(
                compiled_file(
                    file, grid, tmp_path / f"{name} {given}", "net", outputs=NAMES, plan=plan, parts=given, **options
                )
            )
            for given in (False, True)
        )
        ranks = {"domain 2": 2, "both": 4, "places": 1}[name]
        x, y = 8 * 2 * 12 * 4, 8 * 8
        assert whole.predicted.inputs_bytes == x + y
        assert parts.predicted.inputs_bytes in (x // ranks + y, (x + y) // ranks, x // ranks + y // 2)
        assert (
            whole.predicted.bytes - parts.predicted.bytes == whole.predicted.inputs_bytes - parts.predicted.inputs_bytes
        )
