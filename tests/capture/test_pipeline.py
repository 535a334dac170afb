"""Small models, each with one difficulty: the graph computes the same, and its records say what the model says."""

import keyword
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from capture_oracle import assert_same_step, capture, first_batch, targets
from torch import fx, nn

from autopar.capture import format_graph
from autopar.capture.passes.naming import RESERVED
from autopar.model_file import load

EXAMPLES = Path(__file__).parents[2] / "examples"


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


SMALL = (
    *(no_grad_region, nested_no_grad, detached, literal, constant_buffer),
    *(normalised, plain_attribute, repeated, in_place, unused_layer),
)


@pytest.mark.parametrize("function", SMALL)
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
    graph = capture(_scalar_sequential, (torch.ones(1, 4),), name="net").graph
    assert (graph.inputs[0].name, graph.inputs[0].value) == ("input", "input_")
    assert [node.name for node in graph.nodes][:2] == ["x0", "x1"]
    assert all(node.source == "" for node in graph.nodes if node.target == "aten.linear.default")


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


def test_train_and_eval_of_a_part_are_kept():
    def frozen():
        model = Small(normalised)
        model.norm.eval()
        return model

    whole, part = (
        capture(make, {"x": torch.ones(6, 4)}, name="small").graph for make in (lambda: frozen().eval(), frozen)
    )
    assert len(whole.updates) == 3
    assert part.updates == ()
    assert "autopar.batch_norm" not in {node.target for node in part.nodes}


@pytest.mark.zoo  # in two processes, with all that is made of the graph: tests/end_to_end/test_determinism.py
def test_same_model_same_graph():
    file = load(EXAMPLES / "gpt2.py")
    batch = first_batch(file, tokens=16, batch=2)
    once, again = (capture(lambda: file.model(1, 24, 3, 16), batch, name="gpt2").graph for _ in range(2))
    assert once == again
    assert format_graph(once) == format_graph(again)


class Awkward(nn.Module):
    """Its attributes and operators are named like builtins and like what a program imports."""

    def __init__(self):
        super().__init__()
        self.list, self.batch_norm = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        low, high = self.list(x).split(2, 1)
        parts = torch.split(self.batch_norm(x), 1, 1)
        return (low * high + parts[0] * parts[1]).sum() + x.sum()


def test_names_are_identifiers_that_hide_nothing():
    for make in (Awkward, lambda: Small(in_place), lambda: Small(normalised), lambda: Small(nested_no_grad)):
        graph = capture(make, {"x": torch.ones(6, 4)}, name="small").graph
        for name in graph.values:
            assert name.isidentifier()
            assert not keyword.iskeyword(name)
            assert name not in RESERVED


def test_parts_are_called_after_the_variables_they_go_to():
    values = capture(Awkward, {"x": torch.ones(6, 4)}, name="awkward").graph.values
    assert {"x", "sum_", "low", "high", "split_0", "split_1", "list_"} <= set(values)


def test_printed_graph_says_what_happens():
    text = format_graph(capture(Scored, {"x": torch.ones(6, 4), "y": torch.zeros(6).long()}, name="scored").graph)
    assert "net_0: f32[6, 8]' = aten.linear(x, net_0_weight, net_0_bias)  # net.0 test_pipeline.py:" in text
    assert "  input      y: i64[6]" in text
    assert "  parameter  net.2.bias: f32[3]'" in text


def test_a_constant_that_is_made_of_a_parameter_is_made_on_the_cpu():
    """With parameters on meta the constructor fails where it computes a constant buffer of one: it runs once more."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)
            table = torch.arange(4.0)
            table[self.fc.bias.detach().argmin() * 0] = 9.0
            self.register_buffer("table", table.copy_(self.fc.bias.detach().cpu() * 0 + 2), persistent=False)

        def forward(self, x):
            return (self.fc(x) * self.table).square().mean()

    captured = capture(Scaled, (torch.randn(6, 3),), name="scaled")
    assert [value.tolist() for value in captured.constants.values()] == [[2.0] * 4]
