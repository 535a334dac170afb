"""Files read by rows, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from test_shards import cases, layouts_of

from autopar.errors import CheckpointError
from autopar.ir.layout import Replicate, Shard
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.shards import take_part
from autopar.runtime.parameters.sources import from_file, load, save
from autopar.runtime.program.plan_reader import TensorSpec


@settings(max_examples=30, deadline=None)
@given(cases())
def test_a_file_gives_the_part_that_a_whole_tensor_gives(tmp_path_factory, case):
    sizes, dims, chosen, _ = case
    shape = tuple(math.prod(extents) for extents in dims)
    whole = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    save_file({"x": whole, "scalar": torch.tensor(3.0)}, path)
    layouts = layouts_of(dims, chosen)

    def rank():
        axes = Grid("x".join(map(str, sizes))).axes
        values = dict(from_file(path))
        assert torch.equal(values["x"].part(layouts, axes), take_part(whole, layouts, axes))
        assert values["scalar"].part(tuple(Replicate() for _ in axes), axes) == 3.0

    simulate(math.prod(sizes), rank)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(from_file(tmp_path / "missing.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(from_file(tmp_path / "torn.safetensors"))


def test_every_misfit_is_named_at_once():
    def rank():
        axes = Grid("1").axes
        homes = {TensorSpec(name, (2,), torch.float32, aliases=(name * 2,)): (Shard(0),) for name in "abc"}
        with pytest.raises(CheckpointError) as raised:
            load([("aa", torch.ones(2)), ("b", torch.ones(3)), ("bx", torch.ones(2))], homes, axes, None)
        return str(raised.value)

    lines = simulate(1, rank)[0].splitlines()
    assert [line for line in lines if line.startswith("  - ")] == [
        "  - b has shape (3,), the model's is (2,)",
        "  - bx is not a parameter of the model; did you mean 'b'?",
        "  - c is missing",
    ]


def test_saved_files_hold_tied_and_transposed_tensors(tmp_path):
    a = torch.randn(3, 2)
    state = {"a": a, "tied": a, "view": a.t(), "empty": torch.empty(0), "other": torch.empty(0)}
    save(state, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], one) for name, one in state.items())
    assert [one.name for one in tmp_path.iterdir()] == ["x.safetensors"]
