"""Weights leave a checkpoint in one process, under the model's own names, and a checkpoint's enter another job."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_programs import make
from test_parallel_module import parallel, size

from autopar.cli.main import main
from autopar.errors import CheckpointError
from autopar.runtime import simulate
from autopar.runtime.checkpoint import export as exporting
from autopar.runtime.checkpoint import load
from autopar.runtime.checkpoint.export import ExportOptions, export, slabs


@pytest.fixture(scope="module", params=[("mlp", "3x2"), ("tied", "2x2")], ids=["mlp", "tied"])
def saved(request, tmp_path_factory):
    """A folder with a checkpoint, and the whole values of it by all names, and the model's own."""
    kind, grid = request.param
    folder = tmp_path_factory.mktemp(kind)

    def rank():
        model, inputs = parallel(kind, grid)
        model(**inputs(0)).backward()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        optimizer.step()
        model.save(folder / "saved", optimizer, step=1)
        return model.full_state_dict()

    model, _ = make(kind)
    once = {id(one): name for name, one in reversed(model.state_dict(keep_vars=True).items())}
    return folder / "saved", simulate(size(grid), rank)[0], sorted(once.values()), kind


def read(folder):
    """What `model.safetensors`, or the files of an index, hold."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    said = json.loads(index.read_text())
    found = {}
    for file in set(said["weight_map"].values()):
        found |= (here := load_file(folder / file))
        assert all(said["weight_map"][name] == file for name in here)
    assert said["metadata"]["total_size"] == sum(one.nbytes for one in found.values())
    return found


def test_weights_leave_whole_under_their_own_names_tied_ones_once(saved, tmp_path, monkeypatch):
    folder, state, names, _ = saved
    pieces, reading = [], exporting.read_rows
    monkeypatch.setattr(exporting, "PIECE", 40)
    monkeypatch.setattr(exporting, "read_rows", lambda *given: pieces.append(reading(*given)) or pieces[-1])
    done = export(folder, tmp_path / "one")
    assert (done.step, done.tensors, done.files) == (1, len(names), ("model.safetensors",))
    assert max(piece.nbytes for piece in pieces) <= 40 < max(one.nbytes for one in state.values())
    export(folder / "step-00000001", tmp_path / "several", ExportOptions(shard_bytes=200))
    export(folder, tmp_path / "x.safetensors")
    assert len(list((tmp_path / "several").glob("model-*-of-*.safetensors"))) > 1
    for found in (read(tmp_path / "one"), read(tmp_path / "several"), load_file(tmp_path / "x.safetensors")):
        assert sorted(found) == names
        assert all(
            torch.equal(value, state[name]) and value.dtype == state[name].dtype for name, value in found.items()
        )
    with safe_open(tmp_path / "one" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one", "several", "x.safetensors"]


def test_a_checkpoint_is_weights_to_begin_with(saved, tmp_path):
    folder, state, names, kind = saved
    (tmp_path / "other").symlink_to(folder)

    def rank():
        model, _ = parallel(kind, "1x2")
        with torch.no_grad():
            for one in model.parameters():
                one.zero_()
        loaded = model.load_weights(tmp_path / "other")
        model.load_weights(folder / "step-00000001")
        with pytest.raises(CheckpointError) as raised:
            model.load_weights(folder, {names[0]: "another"})
        return loaded, model.full_state_dict(), str(raised.value)

    for loaded, after, said in simulate(2, rank):
        assert loaded.path.name == "step-00000001"
        assert loaded.tensors == len(names)
        assert all(torch.equal(after[name], state[name]) for name in state)
        assert f"  - {names[0]} (for another) is not a parameter of the model" in said
        assert f"  - {names[0]} is missing" in said


def test_another_dtype_other_names_and_the_files_of_a_model_folder(saved, tmp_path, capsys):
    folder, state, names, kind = saved
    like = tmp_path / "like"
    like.mkdir()
    last = {id(one): name for name, one in make(kind)[0].state_dict(keep_vars=True).items()}.values()
    save_file({name: state[name].clone() for name in last} | {"extra": torch.ones(1)}, like / "model.safetensors")
    for name, text in (
        ("config.json", '{"dtype": "float64", "part": {"torch_dtype": "float64"}}'),
        ("merges.txt", "a b"),
    ):
        (like / name).write_text(text)
    words = ["checkpoint", "export", str(folder), "--to", str(tmp_path / "half"), "--dtype", "bfloat16"]
    assert main([*words, "--like", str(like)]) == 0
    found = read(tmp_path / "half")
    assert sorted(found) == sorted(last)
    for name, value in found.items():
        exact = state[name]
        assert torch.equal(value, exact.bfloat16() if exact.is_floating_point() else exact)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config == {"dtype": "bfloat16", "part": {"torch_dtype": "bfloat16"}}
    assert (tmp_path / "half" / "merges.txt").read_text() == "a b"
    assert "extra of like is not written" in capsys.readouterr().out
    assert main([*words, "--rename", "=net.", "--overwrite"]) == 0
    assert sorted(read(tmp_path / "half")) == [f"net.{name}" for name in names]
    assert (tmp_path / "half" / "merges.txt").exists()


def test_adapters_leave_alone_under_the_names_of_their_folder(saved, tmp_path):
    """The first tensor stands for an adapter, which peft's models call by a name of its own too."""
    folder, state, names, _ = saved
    name = next(name for name in names if name.endswith(".weight"))
    like, path = tmp_path / "adapter", name.removesuffix(".weight")
    like.mkdir()
    (like / "adapter_config.json").write_text('{"r": 4}')
    with pytest.raises(CheckpointError, match=r"it holds none of these|no adapter_model\.safetensors"):
        export(folder, tmp_path / "out", ExportOptions(like=like))
    save_file({f"{path}.lora_A.weight": state[name].clone()}, like / "adapter_model.safetensors")
    options = ExportOptions(like=like, names={name: f"{path}.lora_A.default.weight"})
    assert export(folder, tmp_path / "out", options).files == ("adapter_model.safetensors",)
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert found.keys() == {f"{path}.lora_A.weight"}
    assert torch.equal(found[f"{path}.lora_A.weight"], state[name])
    assert (tmp_path / "out" / "adapter_config.json").read_text() == '{"r": 4}'


def test_what_cannot_be_written_is_said_and_leaves_everything(saved, tmp_path, monkeypatch):
    folder, *_ = saved
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "bare").mkdir()
    with pytest.raises(CheckpointError, match=r"it holds 1 files\n.*\n  - mine"):
        export(folder, tmp_path / "full")
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        export(folder, tmp_path / "new", ExportOptions(like=tmp_path / "bare"))
    with pytest.raises(CheckpointError, match="there is no checkpoint in it"):
        export(tmp_path / "bare", tmp_path / "new")
    with pytest.raises(CheckpointError, match="name a folder, or no size"):
        export(folder, tmp_path / "x.safetensors", ExportOptions(shard_bytes=10))
    with pytest.raises(CheckpointError, match="  - one is what two tensors would be called"):
        export(folder, tmp_path / "new", ExportOptions(names=lambda _: "one"))
    with pytest.raises(CheckpointError, match="nothing is left"):
        export(folder, tmp_path / "new", ExportOptions(names=lambda _: None))
    large = load.read_rows
    monkeypatch.setattr(exporting, "read_rows", lambda *given: large(*given) + 70000)
    with pytest.raises(CheckpointError, match="float16 holds numbers up to 65504"):
        export(folder, tmp_path / "new", ExportOptions(dtype=torch.float16))
    monkeypatch.setattr(exporting, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        export(folder, tmp_path / "deep" / "new")
    assert sorted(one.name for one in tmp_path.iterdir() if not one.is_symlink()) == ["bare", "deep", "full"]
    assert [one.name for one in (tmp_path / "full").iterdir()] == ["mine"]
    assert main(["checkpoint", "list", str(folder), "--to", "there"]) == 1
    assert main(["checkpoint", "export", str(folder)]) == 1


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=4), st.integers(1, 30))
def test_regions_are_the_elements_in_their_order(shape, most):
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    found = [whole[tuple(slice(*run) for (run,) in region)].flatten() for region in slabs(shape, most)]
    assert all(len(one) <= most for one in found)
    assert torch.equal(torch.cat(found) if found else whole.flatten(), whole.flatten())
