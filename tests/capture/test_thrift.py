"""What tracing leaves out for speed is seen by nobody: captured graphs are those of torch's own way."""

import contextlib
import inspect

import pytest
import torch
from compiling import captured, made
from torch import fx, nn

from autopar.capture import capture, export
from autopar.capture.thrift import thrifty

NAMES = ("gpt", "conv", "norm_twice", "counted")


@pytest.mark.parametrize("name", NAMES)
def test_graphs_are_those_of_torch_with_their_lines_and_names(name, monkeypatch):
    found = captured(name)
    monkeypatch.setattr(export, "thrifty", contextlib.nullcontext)
    model, inputs = made(name)
    plain = capture(model, inputs, name=name)
    assert found.graph == plain.graph  # lines of the model and names of the inputs among it
    assert found.batch.larger == plain.batch.larger
    assert (found.batch.sizes, found.batch.fixed) == (plain.batch.sizes, plain.batch.fixed)


class Rows(nn.Module):
    def forward(self, x, *, scale=2):
        return x[:2] * scale


def test_a_graph_that_was_not_compiled_runs_and_tells_its_signature():
    with thrifty():
        inner = fx.symbolic_trace(Rows())
        outer = fx.symbolic_trace(nn.Sequential(Rows(), nn.ReLU()))
        names = list(inspect.signature(outer.forward).parameters)
    x = torch.randn(4, 3)
    assert names == ["input"]
    assert torch.equal(inner(x), x[:2] * 2)
    assert torch.equal(inner(x, scale=3), x[:2] * 3)
    assert torch.equal(outer(x), torch.relu(x[:2] * 2))
    assert "getitem" in outer.code
