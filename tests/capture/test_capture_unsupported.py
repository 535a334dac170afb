"""Tensors changed in place that are not forward's own, and tensors and operators that nothing here computes: all refused."""

import pytest
import torch
from capture_refused import Net, line_of, refused

from autopar.capture import capture

LIBRARY = torch.library.Library("refusals", "FRAGMENT")
LIBRARY.define("no_kernel(Tensor x) -> Tensor")
LIBRARY.impl("no_kernel", torch.empty_like, "Meta")
LIBRARY.define("no_shape(Tensor x) -> Tensor")


@torch.library.custom_op("refusals::double_in_place", mutates_args=("x",))
def double_in_place(x: torch.Tensor) -> None:
    x.mul_(2)


@torch.library.custom_op("refusals::no_fake", mutates_args=())
def no_fake(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class WritesView(Net):
    def forward(self, x):
        x[:, 0] = 0
        return self.fc(x).sum()


class WritesFlatView(Net):
    def forward(self, x):
        flat = x.view(-1)
        flat.mul_(2)
        return self.fc(x).sum()


class WritesParameterView(Net):
    def forward(self, x):
        self.fc.weight[0] += 1
        return self.fc(x).sum()


class WritesOneOfSeveralViews(Net):
    def forward(self, x):
        one, two = self.fc(x).unbind(1)[:2]
        one.add_(two)
        return one.sum()


class CustomInPlace(Net):
    def forward(self, x):
        h = self.fc(x)
        double_in_place(h)
        return h.sum()


@pytest.mark.parametrize(
    ("model", "code", "fix"),
    [
        (WritesView, "x[:, 0] = 0", "y = x.clone()"),
        (WritesFlatView, "flat.mul_(2)", "y = x.clone()"),
        (WritesParameterView, "self.fc.weight[0] += 1", "torch.where"),
        (WritesOneOfSeveralViews, "one.add_(two)", "torch.cat"),
        (CustomInPlace, "double_in_place(h)", "mutates_args=()"),
    ],
)
def test_writing_in_place(model, code, fix):
    text = refused(model)
    assert text.startswith(line_of(model, code)), text
    assert "in place" in text.partition("rule:")[0]
    assert fix in text.partition("fix:")[2]


class Plain(Net):
    def forward(self, x):
        return self.fc(x).sum()


class OwnView(Net):
    def forward(self, x):
        h = self.fc(x)
        h.view(-1)[::2].mul_(3)
        h[:, 1] = 0
        self.table[:2].add_(1)
        return (h * self.table).sum()


def test_writing_to_views_of_its_own_is_made_functional():
    graph = capture(OwnView, {"x": torch.ones(6, 4)}, name="net").graph
    assert [name for name, _ in graph.updates] == ["table"]


class Float8(Net):
    def forward(self, x):
        h = self.fc(x)
        return (h.to(torch.float8_e4m3fn).to(torch.float32) * h).sum()


class Quantised(Net):
    def forward(self, x):
        q = torch.quantize_per_tensor(self.fc(x), 0.1, 0, torch.qint8)
        return q.dequantize().sum()


class Sparse(Net):
    def forward(self, x):
        s = x.to_sparse()
        return self.fc(s.to_dense()).sum()


class Unsigned(Net):
    def forward(self, x):
        n = x.to(torch.uint16)
        return self.fc(n.float()).sum()


class NoKernel(Net):
    def forward(self, x):
        h = torch.ops.refusals.no_kernel(self.fc(x))
        return h.sum()


class NoShape(Net):
    def forward(self, x):
        h = torch.ops.refusals.no_shape(self.fc(x))
        return h.sum()


class NoFake(Net):
    def forward(self, x):
        h = no_fake(self.fc(x))
        return h.sum()


@pytest.mark.parametrize(
    ("model", "code", "given", "fix"),
    [
        (
            Float8,
            "return (h.to(torch.float8_e4m3fn).to(torch.float32) * h).sum()",
            "makes a tensor of dtype float8_e4m3fn",
            "bfloat16",
        ),
        (
            Quantised,
            "q = torch.quantize_per_tensor(self.fc(x), 0.1, 0, torch.qint8)",
            "makes a quantised tensor qint8",
            "quantise what was trained",
        ),
        (Sparse, "s = x.to_sparse()", "makes a sparse tensor (torch.sparse_coo)", "keep it dense"),
        (Unsigned, "n = x.to(torch.uint16)", "makes a tensor of dtype uint16", "int32"),
        (
            NoKernel,
            "h = torch.ops.refusals.no_kernel(self.fc(x))",
            "refusals.no_kernel.default has no kernel",
            "torch.library",
        ),
        (
            NoShape,
            "h = torch.ops.refusals.no_shape(self.fc(x))",
            "refusals.no_shape.default tells no shapes",
            "register_fake",
        ),
        (NoFake, "h = no_fake(self.fc(x))", "has no kernel for these tensors", "register_fake"),
    ],
)
def test_tensors_and_operators_that_nothing_here_computes(model, code, given, fix):
    text = refused(model)
    assert text.startswith(line_of(model, code)), text
    assert given in text.partition("rule:")[0]
    assert fix in text.partition("fix:")[2]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's about these very tensors
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda x: x.to(torch.float8_e4m3fn), "x: a tensor of dtype float8_e4m3fn"),
        (lambda x: x.to_sparse(), "x: a sparse tensor (torch.sparse_coo)"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "x: a quantised tensor (qint8)"),
        (lambda x: x.to(torch.complex32), "x: a tensor of dtype complex32"),
        (lambda x: torch.nested.nested_tensor([x, x[:2]]), "x: a nested tensor"),
    ],
)
def test_inputs_that_nothing_here_computes_with(make, kind):
    text = refused(Plain, {"x": make(torch.ones(6, 4))})
    assert text.startswith("example_inputs of Plain: tensors of an unsupported kind")
    assert f"- {kind}" in text


def test_parameters_and_buffers_of_unsupported_kinds():
    class Odd(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("odd", torch.ones(2, dtype=torch.uint32))

    assert "- odd: a tensor of dtype uint32" in refused(Odd, live=True)
