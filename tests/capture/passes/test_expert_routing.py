"""Routines that sort rows by expert, multiply groups and sort back become one call, and compute the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from capture_oracle import assert_same_step, targets
from torch import nn


@pytest.fixture(autouse=True, scope="module")
def grouped_product():
    """That which the library registers and its models call."""
    pytest.importorskip("transformers.integrations.moe")


EXPERTS, WIDTH, HIDDEN = 5, 4, 6


class Routed(nn.Module):
    """What the transformers library does: sort by expert, two grouped products, sort back, weighted sum."""

    def __init__(self, choices=2, gated=True, activation=F.silu, inverse="index_put", between=None, biased=False):
        super().__init__()
        self.choices, self.gated, self.activation = choices, gated, activation
        self.inverse, self.between = inverse, between
        self.bias = nn.Parameter(torch.randn(EXPERTS, HIDDEN * (1 + gated))) if biased else None
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN * (1 + gated), WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.gate(rows).softmax(-1).topk(self.choices, -1)
        flat = ids.reshape(-1)
        ordered, order = flat.sort()
        counts = torch.histc(ordered.float(), EXPERTS, 0, EXPERTS - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        h = self._grouped(rows[order // self.choices], self.up, ends)
        if self.bias is not None:
            h = h + self.bias[ordered]
        if self.gated:
            gate, value = h.chunk(2, -1)
            h = self.activation(gate) * value
        else:
            h = self.activation(h)
        if self.between is not None:
            h = self.between(h)
        y = self._grouped(h, self.down, ends) * weights.reshape(-1)[order].unsqueeze(-1)
        back = order.argsort()
        if self.inverse == "index_put":
            back = torch.empty_like(order)
            back[order] = torch.arange(order.shape[0])
        return y[back].view(-1, self.choices, WIDTH).sum(1).square().mean()

    @staticmethod
    def _grouped(x, weight, ends):
        return torch.ops.transformers.grouped_mm_fallback(x, weight.transpose(-2, -1), ends)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ("silu", True)),
        ({"choices": 1, "gated": False, "activation": F.relu}, ("relu", False)),
        ({"activation": lambda h: F.gelu(h, approximate="tanh"), "inverse": "argsort"}, ("gelu_tanh", True)),
    ],
)
def test_a_network_of_experts_is_one_call(options, said):
    captured = assert_same_step(lambda: Routed(**options), {"x": torch.randn(3, 7, WIDTH, dtype=torch.float64)})
    found = targets(captured)
    assert found["autopar.experts"] == 1
    assert not {"aten.sort.default", "aten.argsort.default", "aten.histc.default", "aten.index.Tensor"} & set(found)
    (node,) = [one for one in captured.graph.nodes if one.target == "autopar.experts"]
    assert node.args[5:] == said


@pytest.mark.parametrize(
    "options", [{"between": lambda h: h * h.detach().abs().amax(-1, keepdim=True)}, {"biased": True}]
)
def test_anything_else_along_a_row_leaves_two_calls(options):
    captured = assert_same_step(lambda: Routed(**options), {"x": torch.randn(3, 7, WIDTH, dtype=torch.float64)})
    assert targets(captured)["autopar.expert_linear"] == 2
    assert "aten.sort.default" not in targets(captured)


def test_what_mixes_rows_stays_sorted():
    """A sum down the rows in sorted order is another one in theirs."""
    module = {"between": lambda h: h.cumsum(0)}
    captured = assert_same_step(lambda: Routed(**module), {"x": torch.randn(2, 5, WIDTH, dtype=torch.float64)})
    found = targets(captured)
    assert found["aten.sort.default"] == 1
    assert "autopar.experts" not in found
    assert found["transformers.grouped_mm_fallback.default"] >= 1


class Gathered(Routed):
    """A batch of products, one per row and choice, with weights picked by index."""

    def __init__(self, turned=False):
        super().__init__()
        self.turned = turned

    def forward(self, x):
        rows = x.reshape(-1, WIDTH)
        weights, ids = self.gate(rows).softmax(-1).topk(self.choices, -1)
        h = self._rows(rows.repeat_interleave(self.choices, 0), self.up, ids.reshape(-1))
        gate, value = h.chunk(2, -1)
        y = self._rows(self.activation(gate) * value, self.down, ids.reshape(-1)) * weights.reshape(-1).unsqueeze(-1)
        return y.view(-1, self.choices, WIDTH).sum(1).square().mean()

    def _rows(self, x, weight, ids):
        if self.turned:
            return torch.bmm(x.unsqueeze(1), weight.transpose(1, 2)[ids]).squeeze(1)
        return torch.bmm(weight[ids], x.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("turned", [False, True])
def test_products_with_gathered_weights_are_one_call(turned):
    captured = assert_same_step(lambda: Gathered(turned), {"x": torch.randn(3, 4, WIDTH, dtype=torch.float64)})
    found = targets(captured)
    assert found["autopar.experts"] == 1
    assert not {"aten.bmm.default", "aten.index.Tensor"} & set(found)
