"""Tables that are no part of the state: buffers that forward fills when it finds them empty or too small, plain attributes."""

import pytest
import torch
from capture_refused import refused
from compiling import QUICK
from shared_captures import these_rows
from torch import nn
from trained import assert_trains_the_same

import autopar


class Bias(nn.Module):
    """A bias by distance, made for the largest length met so far, from slopes that are no part of the state."""

    def __init__(self, persistent=False):
        super().__init__()
        self.persistent = persistent
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]), persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def forward(self, n):
        if self.bias is not None and self.bias.shape[-1] >= n:
            return self.bias[..., -n:, -n:]
        place = torch.arange(n)
        bias = -(place[None, :] - place[:, None]).abs() * self.slopes[:, None, None]
        self.register_buffer("bias", bias, persistent=self.persistent)
        return self.bias


class Net(nn.Module):
    """An attention with such a bias, a table that is made anew where the length is another, and a count of no part in either."""

    def __init__(self, bias=None):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.bias = bias or Bias()
        self.register_buffer("table", torch.zeros(1, 1, 3), persistent=False)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def fill(self, h):
        return torch.arange(h.shape[1] * 3.0).view(1, -1, 3)

    def forward(self, x):
        h = self.a(x)
        q = h.view(*h.shape[:2], 2, 4).transpose(1, 2)
        self.calls.add_(1)
        if self.table.shape[1] != h.shape[1]:
            self.table = self.fill(h)
        return ((q @ q.mT + self.bias(h.shape[1])).softmax(-1) @ q * self.table.mean()).square().mean()


class FilledFromInputs(Net):
    def fill(self, h):
        return h.detach()[:1, :, :3] + 1


class SlopesThatChange(Bias):
    def forward(self, n):
        bias = super().forward(n)
        self.slopes.mul_(0.9)
        return bias


X = torch.randn(5, 7, 6)


def test_constants_are_computed_by_the_program():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
    with these_rows():
        one = autopar.compile(model, (X,), grid="2", machine=QUICK)
    assert model.bias.bias is None
    assert model.table.shape == (1, 1, 3)
    assert_trains_the_same(one, model, {"x": X})


@pytest.mark.parametrize(
    ("model", "name"),
    [(FilledFromInputs(), "table"), (Net(SlopesThatChange()), "bias")],
    ids=["inputs", "a buffer that changes"],
)
def test_what_is_no_constant_is_refused(model, name):
    text = refused(model, (X,))
    assert f"forward keeps state in Python ({name})" in text
    assert "register_buffer" in text


def test_a_part_of_the_state_keeps_its_shape():
    assert "forward sets bias.bias, which was None" in refused(Net(Bias(persistent=True)), (X,))


class Table(nn.Module):
    """A table of positions in a plain attribute, brought to the place and type of what it is added to."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.table = torch.arange(42.0).view(7, 6).sin()

    def forward(self, x):
        return (self.a(x) + self.table.to(x.device, dtype=x.dtype)).square().mean()


def test_a_plain_table_of_a_model_that_is_made_without_memory():
    with these_rows():
        one = autopar.compile(Table, (X,), grid="2", machine=QUICK)
    assert_trains_the_same(one, Table(), {"x": X})
