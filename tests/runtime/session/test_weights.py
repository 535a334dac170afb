"""Weights from files: parts are read by slices under the model's or other names, and what does not fit changes nothing."""

import json

import pytest
import torch
from safetensors.torch import save_file
from small_programs import make
from test_parallel_module import parallel, size

from autopar.errors import CheckpointError
from autopar.runtime import simulate
from autopar.runtime.parameters.weight_files import opened


def random_state(kind, seed=7):
    """Values of every tensor of a model, tied ones once, under the last of their names."""
    model, _ = make(kind)
    draw = torch.Generator().manual_seed(seed)
    values = {
        one: (name, (torch.randn(one.shape, generator=draw) * 9).to(one.dtype))
        for name, one in model.state_dict(keep_vars=True).items()
    }
    return dict(values.values())


def halved(value):
    return value.bfloat16() if value.is_floating_point() else value


def sharded(state, folder):
    """Write a state as two files with an index."""
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(state)}
    for file in set(files.values()):
        save_file({name: state[name] for name in state if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize(("kind", "grid"), [("mlp", "3x2"), ("tied", "2x2")])
def test_parts_are_those_of_the_whole_values_however_they_are_stored(tmp_path, kind, grid):
    """One file with other names and in another dtype; several files with an index, on which two ranks lead to the model's."""
    state = random_state(kind)
    halves = {f"old.{name}": halved(one) for name, one in state.items()} | {"extra": torch.ones(2)}
    (tmp_path / "several").mkdir()
    sharded(state, tmp_path / "several")
    save_file(halves, tmp_path / "one.safetensors")

    def rank():
        model, _ = parallel(kind, grid)
        several = model.load_weights(tmp_path / "several")
        first = model.full_state_dict()
        one = model.load_weights(tmp_path / "one.safetensors", {"old.": ""}, allow_unexpected=["ext*"])
        return several, first, one, model.full_state_dict()

    for several, first, one, second in simulate(size(grid), rank):
        assert first.keys() == make(kind)[0].state_dict().keys()
        for name, value in state.items():
            assert torch.equal(first[name], value)
            assert torch.equal(second[name], halved(value).to(value.dtype))
        assert (several.tensors, several.missing, several.unexpected, several.converted) == (len(state), (), (), {})
        assert one.unexpected == ("extra",)
        assert one.converted == {("bfloat16", "float64"): sum(value.is_floating_point() for value in state.values())}
        assert "1 are not the model's, and were left: extra" in one.lines


def test_all_that_does_not_fit_is_said_and_nothing_is_changed(tmp_path):
    state = random_state("mlp")
    names = list(state)
    wrong = {**state, names[0]: torch.ones(2, 7), "head.weight": torch.ones(2)}
    del wrong[names[1]]
    save_file(wrong, tmp_path / "wrong.safetensors")
    whole = {**state, names[0]: state[names[0]].long()}
    save_file(whole, tmp_path / "whole.safetensors")
    save_file({"unused": torch.ones(1)}, tmp_path / "nothing.safetensors")

    def rank():
        model, _ = parallel("mlp", "2x1")
        before, texts = model.full_state_dict(), []
        for file, options in (
            ("wrong", {}),
            ("whole", {}),
            ("wrong", {"allow_missing": ["*"], "allow_unexpected": ["head.*"]}),
            ("wrong", {"names": lambda name: names[0] if name == names[2] else name}),
        ):
            with pytest.raises(CheckpointError) as raised:
                model.load_weights(tmp_path / f"{file}.safetensors", **options)
            texts.append([line[4:] for line in str(raised.value).splitlines() if line.startswith("  - ")])
        kept = model.load_weights(tmp_path / "nothing.safetensors", {"unused": None}, allow_missing=["*"])
        after = model.full_state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        return texts, kept

    for (first, whole, allowed, twice), kept in simulate(2, rank):
        shape = f"{names[0]} has shape (2, 7), the model's is {tuple(state[names[0]].shape)}"
        assert first[0].startswith(("head.weight is not a parameter", shape))
        assert sorted(line.split(";")[0] for line in first) == sorted(
            [shape, "head.weight is not a parameter of the model", f"{names[1]} is missing"]
        )
        assert whole == [f"{names[0]} is int64, and {names[0]} is float64"]
        assert allowed == [shape]
        assert any("has shape" in line or "has the name of" in line for line in twice)
        assert set(kept.missing) == set(names)


def test_tied_values_that_differ_are_refused_and_equal_ones_are_not(tmp_path):
    model, _ = make("tied")
    state = {name: one.clone() for name, one in model.state_dict().items()}
    save_file(state, tmp_path / "equal.safetensors")
    (_, *tied) = [name for name, one in model.state_dict(keep_vars=True).items() if one is model.embed.weight]
    state[tied[0]] = state[tied[0]] + 1
    save_file(state, tmp_path / "other.safetensors")

    def rank():
        one, _ = parallel("tied", "3")
        assert one.load_weights(tmp_path / "equal.safetensors").tensors == len(state) - 1
        with pytest.raises(CheckpointError, match="pairs of tied tensors"):
            one.load_weights(tmp_path / "other.safetensors")
        assert one.load_weights(tmp_path / "other.safetensors", {tied[0]: None}).unexpected == ()

    simulate(3, rank)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"pytorch_model.bin": b""}, "it holds none of these"),
        ({"a.safetensors": b"", "b.safetensors": b""}, "it holds 2 of them and no index"),
        ({"model.safetensors.index.json": b"{"}, "cannot be read: JSONDecodeError"),
        ({"model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'}, "cannot be read"),
    ],
)
def test_folders_that_hold_no_weights_are_refused(tmp_path, files, problem):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        opened(tmp_path)


def test_a_file_that_lacks_what_its_index_says_is_refused(tmp_path):
    sharded({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path)
    save_file({"c": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="lacks 1 tensors of the index"):
        opened(tmp_path)
