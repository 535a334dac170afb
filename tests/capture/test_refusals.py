"""What cannot be captured is refused at the user's own line, with what to change."""

import re

import pytest
import torch
import torch.nn.functional as F
from capture_refused import Net, line_of, refused
from torch import nn

from autopar.capture import capture
from autopar.errors import CaptureError


class Branch(Net):
    def forward(self, x):
        if x.sum() > 0:
            return self.fc(x).sum()
        return self.fc(x).mean()


class Loop(Net):
    def forward(self, x):
        while self.fc(x).max() > 1:
            x = x / 2
        return self.fc(x).sum()


class Item(Net):
    def forward(self, x):
        scale = x.sum().item()
        return self.fc(x).sum() * scale


class ToList(Net):
    def forward(self, x):
        numbers = x[0].tolist()
        return self.fc(x).sum() * numbers[0]


class ToNumpy(Net):
    def forward(self, x):
        scale = float(x.detach().numpy().sum())
        return self.fc(x).sum() * scale


class MaskIndex(Net):
    def forward(self, x):
        chosen = self.fc(x)[x > 0]
        return chosen.sum()


class Nonzero(Net):
    def forward(self, x):
        rows = x[:, 0].nonzero()
        return self.fc(x)[rows].sum()


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("model", "code"),
    [
        (Branch, "if x.sum() > 0:"),
        (Loop, "while self.fc(x).max() > 1:"),
        (Item, "scale = x.sum().item()"),
        (ToList, "numbers = x[0].tolist()"),
        (ToNumpy, "scale = float(x.detach().numpy().sum())"),
        (MaskIndex, "chosen = self.fc(x)[x > 0]"),
        (Nonzero, "rows = x[:, 0].nonzero()"),
    ],
)
def test_forward_that_looks_at_numbers(model, code, live):
    text = refused(model, live=live)
    assert text.startswith(line_of(model, code)), text
    assert "must not look at the numbers" in text
    assert "torch.where" in text


class WrongShape(Net):
    def forward(self, x):
        h = x.flatten()
        return self.fc(h).sum()


def test_input_of_a_wrong_shape_names_line_and_inputs():
    text = refused(WrongShape, {"x": torch.ones(6, 5)})
    assert text.startswith(line_of(WrongShape, "return self.fc(h).sum()"))
    assert "- x: float32 (6, 5)" in text
    assert "fix: mend this line, or make example_inputs" in text


def test_wrong_shape_without_a_line_of_the_user():
    with pytest.raises(CaptureError, match=r"^mlp \(Sequential\): forward stops with RuntimeError.*"):
        capture(nn.Sequential(nn.Linear(4, 1)), (torch.ones(2, 5),), name="mlp")


class Plain(Net):
    def forward(self, x, y=None, z=None):
        return self.fc(x).sum()


def test_missing_input():
    text = refused(Plain, {"y": torch.ones(2)})
    assert "missing a required argument: 'x'" in text
    assert "forward takes (x, y, z)" in text
    assert "- y: float32 (2,)" in text


def test_unknown_input_suggests_the_nearest():
    class Words(nn.Module):
        def forward(self, input_ids, labels):
            return input_ids.sum()

    with pytest.raises(CaptureError, match=r"- input_id: forward has no such argument; did you mean 'input_ids'\?"):
        capture(Words(), {"input_id": torch.ones(1), "labels": torch.ones(1)}, name="words")


def test_too_many_inputs():
    assert "too many positional arguments" in refused(Plain, (torch.ones(6, 4),) * 4)


def test_nested_inputs():
    assert "- y: list" in refused(Plain, {"x": torch.ones(6, 4), "y": [torch.ones(1)]})


class NoScalar(Net):
    def forward(self, x):
        return {"logits": self.fc(x), "hidden": x}


def test_output_without_loss_lists_the_outputs():
    text = refused(NoScalar)
    assert "no output is a scalar" in text
    assert "- logits: float32 (6, 4)" in text
    assert "--loss" in text


class BareTensor(Net):
    def forward(self, x):
        return self.fc(x)


def test_single_output_that_is_no_scalar():
    assert "- the output: float32 (6, 4)" in refused(BareTensor)


class TwoScalars(Net):
    def forward(self, x):
        return self.fc(x).sum(), self.fc(x).mean()


def test_two_scalars_need_a_name():
    text = refused(TwoScalars)
    assert "several outputs are scalars" in text
    assert "- 0: float32 scalar" in text
    assert capture(TwoScalars, (torch.ones(6, 4),), name="net", loss="1").graph.loss == "loss"


def test_unknown_loss_suggests_the_nearest():
    assert "there is no output 'logit'; did you mean 'logits'?" in refused(NoScalar, loss="logit")


def test_named_loss_that_is_no_scalar():
    assert "no output is a scalar" in refused(NoScalar, loss="logits")


class NoGradient(Net):
    def forward(self, x):
        return F.mse_loss(self.fc(x).detach(), x)


def test_loss_without_gradient():
    assert "no gradient flows to" in refused(NoGradient)


class WritesInput(Net):
    def forward(self, x):
        x += 1
        return self.fc(x).sum()


def test_writing_to_an_input():
    text = refused(WritesInput)
    assert "it writes to an input in place" in text
    assert "- x" in text


class ControlFlowOperator(Net):
    def forward(self, x):
        h = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
        return self.fc(h).sum()


def test_control_flow_operators():
    text = refused(ControlFlowOperator)
    assert "test_refusals.py:" in text


def test_function_that_returns_no_module():
    with pytest.raises(CaptureError, match="the function returned dict"):
        capture(dict, (torch.ones(1),), name="net")


def test_model_that_cannot_be_made():
    def make():
        raise ZeroDivisionError("mine")

    with pytest.raises(CaptureError, match=r'`raise ZeroDivisionError\("mine"\)`: the model cannot be made'):
        capture(make, (torch.ones(1),), name="net")


def test_class_that_needs_arguments():
    with pytest.raises(CaptureError, match=r"^linear: the model cannot be made: TypeError.*in_features"):
        capture(nn.Linear, (torch.ones(1),), name="linear")


def test_constant_without_numbers():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("angles", torch.ones(4), persistent=False)

        def forward(self, x):
            return (self.fc(x) * self.angles).sum()

    with torch.device("meta"):
        module = Rotary()
    with pytest.raises(CaptureError, match=re.escape("- angles: its value is not known")):
        capture(module, (torch.ones(2, 4),), name="rotary")
    assert capture(Rotary, (torch.ones(2, 4),), name="rotary").constants["angles"].tolist() == [1.0] * 4


def test_nothing_is_printed_by_torch(capfd):
    refused(Branch)
    refused(WrongShape, {"x": torch.ones(6, 5)})
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
