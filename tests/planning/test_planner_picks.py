"""Left free, the planner picks what a good engineer would: the four models at their real sizes, without memory."""

import functools
import runpy
from pathlib import Path
from unittest import mock

import pytest
from shared_captures import of_these_rows

import autopar

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@functools.cache
def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@functools.cache
def captured(name, **sizes):
    return of_these_rows(example(name)["model"], example(name)["example_inputs"](**sizes), name=name)


@functools.cache
def compiled(name, grid, pin=(), optimizer="adamw", **sizes):
    one = captured(name, **sizes)
    with mock.patch("autopar.capture.capture", return_value=one):
        return autopar.compile(None, None, grid=grid, name=name, pin=pin, optimizer=optimizer)


def plan(*given, **options):
    return compiled(*given, **options).plan


def splits(found, *targets):
    """Per call of these operators its letters over the axes."""
    return [tuple(one.letter for one in node.choices) for node in found.nodes if node.target.split(".")[1] in targets]


def test_feature_splits_for_the_mlp_column_then_row():
    found = plan("mlp", "2")
    assert splits(found, "linear") == [("n",), ("k",), ("n",), ("k",)]
    assert found.single / found.predicted.seconds > 1.9


def test_batch_for_the_resnet_at_batch_64():
    """With images of 64 x 64 pixels, whose smallest features are 4 x 4; of smaller ones the last stage is mostly weights."""
    found = plan("resnet", "2", optimizer="momentum", size=64)
    assert set(splits(found, "conv2d", "batch_norm")) == {("n",)}
    assert found.single / found.predicted.seconds > 1.9


def test_space_for_the_unet_at_batch_1():
    found = plan("unet", "2")
    letters = set(splits(found, "conv3d", "conv_transpose3d", "max_pool3d"))
    assert len(letters) == 1
    assert letters <= {("d",), ("h",), ("w",)}
    assert not [one for one in found.parameters if one.kind == "parameter" and one.layouts != ("copied",)]
    assert found.single / found.predicted.seconds > 1.9


def test_two_letters_for_gpt2_on_4x2():
    """Batch over the four; over the two the batch in attention, and the features of the wide layers.

    Batch over all eight ranks everywhere costs more, since its gradients are sums; so do heads and features everywhere.
    """
    found = plan("gpt2", "4x2")
    assert set(splits(found, "affine")) == {("b0", "b0"), ("b0", "n"), ("b0", "k")}
    assert set(splits(found, "scaled_dot_product_attention")) == {("b0", "b0")}
    features = plan("gpt2", "4x2", pin=("*.c_attn: n@axis1", "*.c_fc: n@axis1", "*.c_proj: k@axis1"))
    assert features.solver.cost > found.solver.cost * 1.005
    batch = plan("gpt2", "4x2", pin=("*.c_*: b0@axis0", "*.c_*: b0@axis1"))
    assert set(splits(batch, "affine")) == {("b0", "b0")}
    assert batch.solver.cost > found.solver.cost * 1.01
    assert batch.predicted.gradients > found.predicted.gradients


def test_layers_of_gpt2_are_written_once():
    """Of any number of layers the program has as many lines."""
    one = compiled("gpt2", "4x2")
    assert len(one.source.splitlines()) <= 120
    assert one.source.count("def transformer_block(p, ") == 1
    assert one.solution.gap == 0


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_the_choice_is_proven_cheapest(name):
    found = plan(name, "2")
    assert found.solver.gap == 0
    assert found.solver.method == "elimination"
