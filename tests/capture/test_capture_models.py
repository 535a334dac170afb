"""Whole models: the graph computes the module's loss, gradients and buffers, and looks as its user would expect."""

from pathlib import Path

import pytest
import torch
from capture_oracle import assert_same_step, capture, first_batch, targets

from autopar.ir.graph import check
from autopar.model_file import load

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_gpt2_keeps_three_dims_and_needs_no_mask():
    file = load(EXAMPLES / "gpt2.py")
    sizes = {"tokens": 16, "batch": 3}
    captured = assert_same_step(lambda: file.model(layers=2, width=24, heads=3, tokens=16), first_batch(file, **sizes))
    found = targets(captured)
    assert found["autopar.affine"] == 8
    assert found["aten.gelu.default"] == 2
    assert not {"aten.addmm.default", "aten.tanh.default", "aten.clone.default", "aten.eq.Tensor"} & set(found)
    attention = [node for node in captured.graph.nodes if node.target == "aten.scaled_dot_product_attention.default"]
    assert all(node.args[3:] == (None, 0.0, True) for node in attention)
    affine = [node for node in captured.graph.nodes if node.target == "autopar.affine"]
    assert all(len(captured.graph.values[node.inputs[0]].shape) == 3 for node in affine)
    tied = next(item for item in captured.graph.parameters if item.name == "transformer.wte.weight")
    assert tied.aliases == ("lm_head.weight",)
    assert {"query_states", "key_states", "value_states", "c_attn", "ln_f", "loss"} <= set(captured.graph.values)
    first = next(node for node in captured.graph.nodes if node.outputs == ("c_attn",))
    assert first.module == "transformer.h.0.attn.c_attn"
    assert first.source.startswith("modeling_gpt2.py:")
    assert "self.c_attn(hidden_states)" in first.code


def test_resnet_updates_its_running_statistics():
    file = load(EXAMPLES / "resnet.py")
    captured = assert_same_step(lambda: file.model(widths=(4, 8), depths=(1, 1)), first_batch(file, size=16, batch=4))
    found = targets(captured)
    assert found["autopar.batch_norm"] == 6
    assert found["aten.conv2d.default"] == 6
    assert len(captured.graph.updates) == 18
    running = [value for buffer, value in captured.graph.updates if buffer.endswith("running_mean")]
    assert not any(captured.graph.values[value].differentiable for value in running)


def test_unet_joins_its_levels():
    file = load(EXAMPLES / "unet.py")
    captured = assert_same_step(lambda: file.model(channels=2), first_batch(file, size=(8, 12, 4)))
    found = targets(captured)
    assert found["aten.cat.default"] == 2
    assert found["aten.conv_transpose3d.input"] == 2
    assert found["aten.max_pool3d.default"] == 2
    assert "aten.broadcast_tensors.default" not in found


def test_mlp_is_linear_layers_and_a_loss():
    file = load(EXAMPLES / "mlp.py")
    captured = assert_same_step(lambda: file.model(width=16), first_batch(file, width=16, batch=4))
    assert " ".join(node.name for node in captured.graph.nodes) == "fc1 relu fc2 relu_1 fc3 relu_2 fc4 loss"
    assert captured.graph.nodes[0].source.startswith("mlp.py:")
    assert captured.graph.nodes[0].code == "h = F.relu(self.fc1(noisy))"


@pytest.mark.parametrize(  # the others are planned as they stand, or nearly so, in tests/planning/test_planner_picks.py
    "name", ["mlp", "gpt2", *(pytest.param(name, marks=pytest.mark.zoo) for name in ("resnet", "unet"))]
)
def test_example_as_it_stands_is_captured_without_memory(name):
    file = load(EXAMPLES / f"{name}.py")
    captured = capture(file.model, file.example_inputs, name=file.name)
    check(captured.graph)
    batch = next(file.batches()) if name != "mlp" else file.example_inputs()
    shapes = {item.name: captured.graph.values[item.value].shape for item in captured.graph.inputs}
    assert {key: tuple(value.shape) for key, value in batch.items()} == shapes
    assert captured.constants == {}


def test_llama():
    transformers = pytest.importorskip("transformers")

    def make():
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=32, max_position_embeddings=16, use_cache=False,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)

    ids = torch.arange(16).reshape(2, 8)
    captured = assert_same_step(make, {"input_ids": ids, "labels": ids})
    assert list(captured.constants) == ["model.rotary_emb.inv_freq"]
    found = targets(captured)
    assert found["aten.scaled_dot_product_attention.default"] == 2
    assert "aten.le.Tensor" not in found
    cosine = next(node for node in captured.graph.nodes if node.target == "aten.cos.default")
    assert not captured.graph.values[cosine.outputs[0]].differentiable
