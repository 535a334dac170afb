"""A trace without writes is written out as torch's own functionalization writes it out; any other trace is left to torch."""

from unittest import mock

import pytest
import torch
from compiling import captured, made
from torch import nn

from autopar.capture import capture
from autopar.capture.exporting import export
from autopar.capture.exporting.functionalization import without_writes


class Shapes(nn.Module):
    """Calls that ATen writes out by how their operand lies, or gives back as it is."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, input, mask):
        x = self.fc(input).to(input.dtype).contiguous()
        one, two, *_ = x.chunk(3, 1)
        turned = x.view(x.shape[0], 2, 3).transpose(1, 2)
        flat = turned.reshape(x.shape[0], 6) + turned.contiguous().flatten(1) + x.reshape(-1, 6)
        one, again = x.chunk(3, 1)[0], x.split(2, 1)[0]
        flat = flat + mask.type_as(x).expand_as(flat) + torch.arange(6, device=x.device).double().to(torch.float32)
        flat = flat.unflatten(1, (3, 2)).movedim(1, 2).reshape_as(flat) + flat.view_as(x).narrow(1, 0, 1)
        a, b = torch.broadcast_tensors(one, two[:, :1])
        return (flat * x.detach()).sum() + (a * b + again).float().to(torch.float64).sum()


class Written(Shapes):
    def forward(self, input, mask):
        return self.fc(input).add_(mask).sum()


class InRegion(Shapes):
    def forward(self, input, mask):
        with torch.no_grad():
            scale = input.abs().max().to(input.dtype)
        return (self.fc(input) * scale + mask).sum()


class GivenBack(Shapes):
    def forward(self, input, mask):
        return {"loss": (self.fc(input) + mask).sum(), "input": input, "mask": mask.to(mask.dtype)}


class Dropping(Shapes):
    def forward(self, input, mask):
        return nn.functional.dropout(self.fc(input) + mask, 0.5, self.training).sum()


def inputs():
    return {"input": torch.randn(4, 6), "mask": torch.ones(4, 1)}


def ways(make, given):
    """What is captured, and how often a trace was plain, in our way and in torch's."""
    said = []

    def watched(*args):
        said.append(without_writes(*args))
        return said[-1]

    with mock.patch.object(export, "without_writes", watched):
        ours = capture(make, given, name="model")
    with mock.patch.object(export, "without_writes", return_value=False):
        theirs = capture(make, given, name="model")
    return ours, theirs, said


@pytest.mark.parametrize("model", [Shapes, Written, InRegion, GivenBack, Dropping])
def test_a_graph_is_that_of_torch(model):
    ours, theirs, said = ways(model, inputs())
    assert said == [model in (Shapes,)] * 2
    assert ours.graph == theirs.graph
    assert ours.batch.larger == theirs.batch.larger
    assert ours.batch.fixed == theirs.batch.fixed == ""


@pytest.mark.parametrize("name", ["heads", "reserved"])
def test_so_are_those_of_small_models(name):
    model, given = made(name)
    with mock.patch.object(export, "without_writes", return_value=False):
        theirs = capture(model, given, name=name)
    assert captured(name).graph == theirs.graph
    assert captured(name).batch.larger == theirs.batch.larger
