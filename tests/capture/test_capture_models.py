"""Whole models: the graph computes the module's loss, gradients and buffers, and looks as its user would expect."""

import keyword
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from capture_oracle import assert_same_step
from torch import fx, nn

from autopar.capture import capture, format_graph
from autopar.capture.names import RESERVED
from autopar.graph import check
from autopar.model_file import load

EXAMPLES = Path(__file__).parents[2] / "examples"


def targets(captured):
    return Counter(node.target for node in captured.graph.nodes)


def example(name):
    return vars(__import__("sys").modules[load(EXAMPLES / f"{name}.py").example_inputs.__module__])


def first_batch(file, **sizes):
    """The first real batch of an example at other sizes, floats in float64."""
    batch = next(file.batches(**sizes))
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


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
    captured = assert_same_step(
        lambda: file.model(widths=(4, 8), depths=(1, 1)), first_batch(file, size=16, batch=4)
    )
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
    assert [node.name for node in captured.graph.nodes] == ["fc1", "relu", "fc2", "relu_1", "fc3", "relu_2", "fc4", "loss"]
    assert captured.graph.nodes[0].source.startswith("mlp.py:")
    assert captured.graph.nodes[0].code == "h = F.relu(self.fc1(noisy))"


@pytest.mark.parametrize("name", ["mlp", "gpt2", "resnet", "unet"])
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


class Small(nn.Module):
    """A function of x and the parameters of a few layers, chosen by each test."""

    def __init__(self, function):
        super().__init__()
        self.fc, self.out, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.arange(4.0), persistent=False)
        self.shift = torch.ones(4)
        self.function = function

    def forward(self, x, y=None):
        return self.function(self, x) if y is None else self.function(self, x, y)


X = {"x": torch.linspace(-1, 2, 24).reshape(6, 4).double()}


def no_grad_region(m, x):
    with torch.no_grad():
        target = m.fc(x) * 2
    return F.mse_loss(m.fc(x), target)


def nested_no_grad(m, x):
    with torch.no_grad():
        a, b = m.fc(x).chunk(2, 1)
        target = torch.cat([b, a], 1)
    return (m.out(x) * target).sum()


def detached(m, x):
    return (m.fc(x) * m.out(x).detach()).mean()


def literal(m, x):
    return (m.fc(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]).double() + torch.arange(4)).sum()


def constant_buffer(m, x):
    return (m.fc(x) * m.scale).sum()


def normalised(m, x):
    return m.norm(m.fc(x)).square().mean()


def plain_attribute(m, x):
    return (m.fc(x) * m.shift).sum()


def repeated(m, x):
    return m.fc(m.fc(x)).sum()


def in_place(m, x):
    h = m.fc(x)
    h += 1
    h[:, 0] = 0
    return h.relu_().sum()


def unused_layer(m, x):
    m.norm(x)  # its running statistics move all the same
    return m.fc(x).sum()


@pytest.mark.parametrize(
    "function",
    [
        no_grad_region, nested_no_grad, detached, literal, constant_buffer, normalised, plain_attribute, repeated, in_place,
        unused_layer,
    ],
)  # fmt: skip
def test_small_models_compute_the_same(function):
    captured = assert_same_step(lambda: Small(function), X)
    kinds = {item.name: item.kind for item in captured.graph.parameters}
    assert kinds.get("scale", "constant") == "constant"
    assert ("scale" in captured.constants) == (function is constant_buffer)


def test_no_gradient_flows_through_no_grad():
    captured = assert_same_step(lambda: Small(no_grad_region), X)
    flows = [captured.graph.values[name].differentiable for node in captured.graph.nodes for name in node.outputs]
    assert True in flows
    assert False in flows


def test_constants_have_their_values():
    captured = assert_same_step(lambda: Small(constant_buffer), X)
    torch.testing.assert_close(captured.constants["scale"], torch.arange(4.0).double())
    captured = assert_same_step(lambda: Small(literal), X)
    assert [tensor.tolist() for tensor in captured.constants.values()] == [[1.0, 2.0, 3.0, 4.0]]


def test_frozen_and_tied():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode, self.fixed = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.decode.weight = self.encode.weight
            self.fixed.requires_grad_(False)

        def forward(self, x):
            return self.decode(self.fixed(self.encode(x))).square().mean()

    captured = assert_same_step(Net, X)
    found = {item.name: (item.kind, item.aliases) for item in captured.graph.parameters}
    assert found == {
        "encode.weight": ("parameter", ("decode.weight",)),
        "encode.bias": ("parameter", ()),
        "decode.bias": ("parameter", ()),
        "fixed.weight": ("frozen", ()),
        "fixed.bias": ("frozen", ()),
    }


def test_frozen_layer_before_any_trained_one_carries_no_gradient():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fixed, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)
            self.fixed.requires_grad_(False)

        def forward(self, x):
            return self.fc(self.fixed(x)).mean()

    values = assert_same_step(Net, X).graph.values
    assert not values["fixed"].differentiable
    assert values["fc"].differentiable


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, unused=None):
        return {"logits": self.fc(x), "aux": {"loss": self.other(x).mean()}, "loss": self.fc(x).mean()}


def test_outputs_other_than_the_loss_are_dropped():
    captured = assert_same_step(TwoOutputs, X)
    assert [node.module for node in captured.graph.nodes] == ["fc", ""]
    assert "other.weight" in {item.name for item in captured.graph.parameters}


def test_loss_by_name():
    captured = assert_same_step(TwoOutputs, X, pick=lambda out: out["aux"]["loss"], loss="aux.loss")
    assert captured.graph.nodes[0].module == "other"


def test_an_input_that_the_loss_does_not_use_is_kept():
    captured = capture(TwoOutputs, {"x": torch.zeros(6, 4), "unused": torch.zeros(3)}, name="two")
    assert [item.name for item in captured.graph.inputs] == ["x", "unused"]


def test_positional_inputs_have_the_names_of_forward():
    captured = capture(TwoOutputs, (torch.zeros(6, 4), torch.zeros(3)), name="two")
    assert [item.name for item in captured.graph.inputs] == ["x", "unused"]


def test_keywords_in_another_order_than_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, y, flag=False):
            return (self.fc(x) * y).sum() if flag else self.fc(x).sum()

    inputs = {"flag": True, "y": torch.full((6, 1), 2.0).double(), **X}
    captured = assert_same_step(Net, inputs)
    assert {item.name: captured.graph.values[item.value].shape for item in captured.graph.inputs} == {
        "y": (6, 1),
        "x": (6, 4),
    }


def test_same_tensor_given_twice_is_two_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, y):
            return F.mse_loss(self.fc(x), y)

    x = torch.ones(2, 4)
    for model in (Net, Net()):
        graph = capture(model, (x, x), name="net").graph
        assert {"x", "y"} <= {name for node in graph.nodes for name in node.inputs}


class Scored(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


def test_symbolic_trace_is_accepted():
    inputs = {**X, "y": torch.arange(6) % 3}
    captured = assert_same_step(lambda: fx.symbolic_trace(Scored()), inputs)
    direct = assert_same_step(Scored, inputs)
    assert targets(captured) == targets(direct)
    assert [item.name for item in captured.graph.parameters] == [item.name for item in direct.graph.parameters]


def test_sequential_of_torch_modules():
    captured = assert_same_step(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0), nn.AvgPool1d(6), nn.Flatten(0)),
        {"input": torch.ones(6, 4).double()},
        pick=lambda out: out.sum(),
    ) if False else capture(_scalar_sequential, (torch.ones(1, 4),), name="net")
    assert captured.graph.inputs[0].name == "input"
    assert captured.graph.inputs[0].value == "input_"


def _scalar_sequential():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Unflatten(1, (1, 1)), nn.Flatten(0), Squeeze())


class Squeeze(nn.Module):
    def forward(self, x):
        return x.sum()


def test_live_module_stays_as_it_was():
    module = Scored().double()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    inputs = {**X, "y": torch.arange(6) % 3}
    graph = capture(module, inputs, name="model").graph
    assert graph == capture(lambda: Scored().double(), inputs, name="model").graph
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    assert all(parameter.grad is None and not parameter.is_meta for parameter in module.parameters())


def test_live_meta_module_is_not_changed():
    with torch.device("meta"):
        module = Scored().double()
    inputs = {**X, "y": torch.arange(6) % 3}
    assert len(capture(module, inputs, name="model").graph.nodes) == 4
    assert all(type(parameter) is nn.Parameter and parameter.is_meta for parameter in module.parameters())


def test_a_model_larger_than_memory():
    def make():
        return nn.Sequential(nn.Linear(1_000_000, 1_000_000), Squeeze())

    graph = capture(make, (torch.zeros(1, 1_000_000),), name="large").graph
    assert graph.values[graph.parameters[0].value].nbytes == 4 * 10**12


def test_function_that_cannot_run_on_meta_is_made_on_the_cpu(caplog):
    def make():
        rate = float(torch.linspace(0, 1, 3)[1])  # reads a number, which meta tensors do not have
        return Small(lambda m, x: m.fc(x).sum() * rate).double()

    with caplog.at_level(logging.INFO, logger="autopar.capture"):
        captured = capture(make, X, name="small")
    assert "meta" in caplog.text
    assert any(0.5 in node.args for node in captured.graph.nodes)


def test_cpu_autocast_is_honoured():
    def half(m, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = m.fc(x)
        return h.float().sum()

    graph = capture(lambda: Small(half), {"x": torch.ones(6, 4)}, name="small").graph
    (linear,) = [node for node in graph.nodes if node.target == "aten.linear.default"]
    assert graph.values[linear.outputs[0]].dtype == "bfloat16"


def test_train_and_eval_are_kept():
    training = capture(lambda: Small(normalised), {"x": torch.ones(6, 4)}, name="small").graph
    evaluating = capture(lambda: Small(normalised).eval(), {"x": torch.ones(6, 4)}, name="small").graph
    assert len(training.updates) == 3
    assert evaluating.updates == ()
    assert "autopar.batch_norm" not in {node.target for node in evaluating.nodes}


def test_same_model_same_graph():
    file = load(EXAMPLES / "gpt2.py")
    once, again = (
        capture(lambda: file.model(2, 24, 3, 16), file.example_inputs(16, 2), name="gpt2").graph for _ in range(2)
    )
    assert once == again
    assert format_graph(once) == format_graph(again)


def test_names_are_identifiers_that_hide_nothing():
    def awkward(m, x):
        a, b = m.fc(x).split(2, 1)
        return (a * b).sum() + torch.split(x, 2)[0].sum()

    for function in (awkward, in_place, normalised, nested_no_grad):
        graph = capture(lambda f=function: Small(f), {"x": torch.ones(6, 4)}, name="small").graph
        for name in graph.values:
            assert name.isidentifier()
            assert not keyword.iskeyword(name)
            assert name not in RESERVED
    assert "a" in capture(lambda: Small(awkward), {"x": torch.ones(6, 4)}, name="small").graph.values


def test_printed_graph_says_what_happens():
    text = format_graph(capture(Scored, {"x": torch.ones(6, 4), "y": torch.zeros(6).long()}, name="scored").graph)
    assert "net_0: f32[6, 8]' = aten.linear(x, net_0_weight, net_0_bias)  # net.0 test_capture_models.py:" in text
    assert "  input      y: i64[6]" in text
    assert "  parameter  net.2.bias: f32[3]'" in text
