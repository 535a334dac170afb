"""Operators that capture writes out as simpler ones compute what they computed, and are gone."""

import pytest
import torch
from capture_builder import Builder, assert_equal, kinds
from capture_oracle import assert_same_step, capture, state_of, targets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autopar.capture.exporting import decompositions
from autopar.capture.passes.concat_and_fill import name_fills, slices_of_joins
from autopar.capture.passes.simplify import drop_neutral
from autopar.ops.interpreter import bind, run


class Cells(nn.Module):
    """Two steps of four kinds of cells, one upon the other."""

    def __init__(self, bias):
        super().__init__()
        self.lstm = nn.LSTMCell(5, 4, bias)
        self.gru = nn.GRUCell(4, 3, bias)
        self.tanh = nn.RNNCell(3, 6, bias)
        self.relu = nn.RNNCell(6, 2, bias, nonlinearity="relu")

    def forward(self, x):
        state, g, t, r, loss = None, None, None, None, 0.0
        for step in x.unbind(1):
            state = self.lstm(step, state)
            g = self.gru(state[0], g)
            t = self.tanh(g, t)
            r = self.relu(t, r)
            loss = loss + (r + state[1][:, :2]).square().mean()
        return loss


@pytest.mark.parametrize("bias", [True, False])
def test_cells_are_products(bias):
    captured = assert_same_step(lambda: Cells(bias), {"x": torch.randn(7, 2, 5, dtype=torch.float64)})
    found = targets(captured)
    assert found["aten.linear.default"] == 2 * 4 * 2
    assert not [target for target in found if "cell" in target]


class Recurrent(nn.Module):
    """Layers that drop out between them, and layers that do not."""

    def __init__(self, kind, first):
        super().__init__()
        self.noisy = kind(3, 4, 2, dropout=0.4, bidirectional=True, batch_first=first)
        self.plain = kind(8, 2, batch_first=first)

    def forward(self, x):
        y, ends = self.noisy(x)
        ends = ends if isinstance(ends, tuple) else (ends,)
        return self.plain(y)[0].square().sum() + sum(one.sum() for one in ends)


@pytest.mark.parametrize(("kind", "first"), [(nn.LSTM, True), (nn.GRU, False)])
def test_layers_that_drop_out_are_taken_one_by_one(kind, first):
    inputs = {"x": torch.randn(2, 3, 3, dtype=torch.float64)}
    captured = capture(lambda: Recurrent(kind, first).double(), inputs, name="model")
    module = Recurrent(kind, first).double()
    torch.manual_seed(7)
    found = run(captured.graph.nodes, bind(captured.graph, inputs, state_of(module, captured)))[captured.graph.loss]
    torch.manual_seed(7)
    torch.testing.assert_close(found, module(**inputs), rtol=1e-12, atol=1e-12)
    count = targets(captured)
    assert sum(n for target, n in count.items() if target.endswith(".input")) == 2 + 1
    assert count["aten.dropout.default"] == 1


class Writes(nn.Module):
    """A shift to the right, a write with steps, a write of one number, and a row put into another tensor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        shifted = x.new_zeros(x.shape)
        shifted[:, 1:] = x[:, :-1].clone()
        shifted[:, 0] = 2.0
        other = self.weight * shifted
        other[:, ::2] = x[:, ::2]
        other[1:3, 4] = self.weight[0, :2]
        other[3].fill_(3.0)
        return (other * x).sum()


def test_writes_into_parts_are_joins():
    captured = assert_same_step(Writes, {"x": torch.randn(4, 6, dtype=torch.float64)})
    found = targets(captured)
    assert [target for target in found if "scatter" in target] == ["aten.slice_scatter.default"]  # the one with steps
    assert found["aten.slice_scatter.default"] == 1
    assert not [target for target in found if "copy.default" in target or "fill" in target]


class Smaller(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return torch.min(torch.max(self.weight, x), 2 * x + self.weight).sum()


def test_minimum_of_two_tensors_has_one_name():
    captured = assert_same_step(Smaller, {"x": torch.randn(5, 3, dtype=torch.float64)})
    assert {"aten.minimum.default", "aten.maximum.default"} <= set(targets(captured))


NORMS = st.sampled_from([None, "forward", "backward", "ortho"])
TRANSFORMS = {
    "fftn": (torch.fft.fftn, decompositions.fftn, True),
    "ifftn": (torch.fft.ifftn, decompositions.ifftn, True),
    "rfftn": (torch.fft.rfftn, decompositions.rfftn, False),
    "irfftn": (torch.fft.irfftn, decompositions.irfftn, True),
}


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(sorted(TRANSFORMS)), NORMS)
def test_transforms_of_several_dims_are_taken_one_by_one(data, name, norm):
    whole, ours, is_complex = TRANSFORMS[name]
    x = torch.randn(3, 4, 5, dtype=torch.complex128 if is_complex else torch.float64)
    dim = data.draw(st.none() | st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda d: d % 3))
    count = 3 if dim is None else len(dim)
    lengths = st.lists(st.integers(2, 6), min_size=count, max_size=count)
    s = data.draw(st.none() | lengths)
    torch.testing.assert_close(ours(x, s, dim, norm), whole(x, s, dim, norm), rtol=1e-12, atol=1e-12)


class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        waves = torch.fft.rfft2(x) * self.weight
        return (torch.fft.irfft2(waves, s=(4, 6)) + torch.fft.fftn(x).real[..., :6]).square().sum()


def test_captured_transforms_have_one_dim():
    captured = assert_same_step(Spectrum, {"x": torch.randn(3, 4, 6, dtype=torch.float64)})
    found = {target for target in targets(captured) if "fft" in target}
    names = ("fft_rfft", "fft_fft", "fft_ifft", "fft_irfft")
    assert found == {f"aten.{name}.default" for name in names}


def test_what_is_cut_out_of_a_join_is_cut_from_its_piece():
    b = Builder()
    one, two, three = b.input("one", 2, 3), b.input("two", 2, 4), b.input("three", 2, 2)
    joined = b.call("aten.cat.default", (one, two, three), 1)
    inside = b.call("aten.slice.Tensor", joined, 1, 4, 7, 2)
    exact = b.call("aten.slice.Tensor", joined, 1, 7, 9, 1)
    across = b.call("aten.slice.Tensor", joined, 1, 2, 4, 1)
    total = b.call("aten.cat.default", (inside, exact, across), 1)
    rows = b.call("aten.slice.Tensor", joined, 0, 1, 2, 1)
    graph = b.graph(
        b.call(
            "aten.sum.default", b.call("aten.cat.default", (b.call("aten.slice.Tensor", total, 0, 0, 1, 1), rows), 1)
        )
    )
    after = slices_of_joins(graph)
    assert_equal(graph, after)
    cuts = [node.args for node in after.nodes if node.target == "aten.slice.Tensor"]
    assert [(cut[0].name, *cut[1:]) for cut in cuts] == [
        ("two", 1, 1, 4, 2),
        ("three", 1, 0, 2, 1),
        (joined.name, 1, 2, 4, 1),
        (joined.name, 0, 1, 2, 1),
        (total.name, 0, 0, 1, 1),
    ]
    assert kinds(drop_neutral(after)).count("slice") == 4


def test_a_constant_of_one_number_is_named_where_it_fills():
    b = Builder()
    seven = b.parameter("seven", kind="constant")
    graph = b.graph(b.call("aten.sum.default", b.call("aten.expand.default", seven, (2, 3))))
    after = name_fills(graph, {"seven": torch.tensor(7.0, dtype=torch.float64)})
    assert after.nodes[0].args == ((2, 3), 7.0)
    assert kinds(after) == ["full", "sum"]
    assert not after.parameters
    assert name_fills(graph, {}) == graph


class Lending(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6))

    def forward(self, x):
        half = self.weight.float()
        y = (half.type_as(x) * 2).expand_as(x) + half.to(x)
        p, q = torch.broadcast_tensors(self.weight, x)
        z = torch.broadcast_to(p[0], (4, 6)).reshape_as(x.T)
        return (x.tanh() * y + p * q + z.view_as(x)).square().sum()


def test_what_only_lends_a_shape_or_a_dtype_is_not_read():
    captured = assert_same_step(Lending, {"x": torch.randn(4, 6, dtype=torch.float64)})
    found = set(targets(captured))
    assert not [target for target in found if "_as." in target or "broadcast" in target or target.endswith("other")]
