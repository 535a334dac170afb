"""What tracing leaves out for speed is seen by nobody: captured graphs are those of torch's own way."""

import contextlib
import inspect

import live
import pytest
import torch
import torch.nn.functional as F
from compiling import QUICK, captured, made, run
from torch import fx, nn

import autopar
from autopar.capture import capture
from autopar.capture.exporting import export
from autopar.capture.tracing.lean_tracing import lean_tracing

NAMES = ("attention", "conv", "norm_twice", "counted")


@pytest.mark.parametrize("name", NAMES)
def test_graphs_are_those_of_torch_with_their_lines_and_names(name, monkeypatch):
    found = captured(name)
    monkeypatch.setattr(export, "lean_tracing", contextlib.nullcontext)
    model, inputs = made(name)
    plain = capture(model, inputs, name=name)
    assert found.graph == plain.graph  # lines of the model and names of the inputs among it
    assert found.batch.larger == plain.batch.larger
    assert (found.batch.sizes, found.batch.fixed) == (plain.batch.sizes, plain.batch.fixed)


class Rows(nn.Module):
    def forward(self, x, *, scale=2):
        return x[:2] * scale


def test_a_graph_that_was_not_compiled_runs_and_tells_its_signature():
    with lean_tracing():
        inner = fx.symbolic_trace(Rows())
        outer = fx.symbolic_trace(nn.Sequential(Rows(), nn.ReLU()))
        names = list(inspect.signature(outer.forward).parameters)
    x = torch.randn(4, 3)
    assert names == ["input"]
    assert torch.equal(inner(x), x[:2] * 2)
    assert torch.equal(inner(x, scale=3), x[:2] * 3)
    assert torch.equal(outer(x), torch.relu(x[:2] * 2))
    assert "getitem" in outer.code


class Around(nn.Module):
    """A model with a graph of the user's inside."""

    def __init__(self, graph):
        super().__init__()
        self.graph, self.head = graph, nn.Linear(4, 2)

    def forward(self, x, y):
        return F.mse_loss(self.head(self.graph(x)), y)


class Scored(nn.Module):
    """What is traced into a graph of the user's that is the model."""

    def __init__(self):
        super().__init__()
        self.inner = Around(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))

    def forward(self, x, y):
        return self.inner(x, y)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("called", [False, True])
def test_graphs_of_the_user_are_captured_and_stay_what_they_are(whole, called):
    torch.manual_seed(0)
    model = (
        fx.symbolic_trace(Scored()) if whole else Around(fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh())))
    )
    model = model.double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    loss = model(x, y).item() if called else None
    graphs = [one for one in model.modules() if isinstance(one, fx.GraphModule)]
    before = live.picture(model), [told(one) for one in graphs]
    made = autopar.compile(model, {"x": x, "y": y}, grid="2", machine=QUICK)
    assert live.changes(before[0], live.picture(model)) == []
    assert [told(one) for one in graphs] == before[1]
    wanted = model(x, y)
    assert loss is None or loss == wanted.item()
    wanted.backward()
    gradients = {name: one.grad for name, one in model.named_parameters()}
    for found, own, _ in run(made, model, {"x": x, "y": y}):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(own, gradients, rtol=1e-10, atol=1e-12)
    model.graph.lint() if whole else model.graph.graph.lint()
    graphs[0].recompile()  # which is the user's again
    assert torch.equal(model(x, y), wanted)
    assert told(graphs[0])[:-1] == before[1][0][:-1]


def told(graph):
    """All that a graph says of itself; its notes on every call, and the very function that it runs last."""
    notes = [{key: str(value) for key, value in node.meta.items()} for node in graph.graph.nodes]
    return str(graph.graph), graph.code, str(inspect.signature(graph.forward)), notes, type(graph).forward
