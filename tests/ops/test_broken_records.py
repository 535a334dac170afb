"""Where a record fails for a call, the call runs on without it, and the report says why; mistakes of ours are told as such."""

import dataclasses
import functools
from unittest import mock

import pytest
import torch
from torch import nn

import autopar
from autopar import errors
from autopar.analysis.fallbacks import unruled
from autopar.capture import capture
from autopar.codegen import emit, soundness
from autopar.ops import registry as records
from autopar.ops.record.rule import letters

LINEAR = records.registry()["aten.linear.default"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(x)))).square().mean()


MODEL = Net()
INPUTS = (torch.ones(8, 4),)


@functools.cache
def captured():
    return capture(MODEL, INPUTS, name="net")


def compiled(**changed):
    """The net where the record of linear is another."""
    other = dataclasses.replace(LINEAR, targets=("aten.linear.default",), **changed)
    known = mock.patch.dict(records._OWN, {"aten.linear.default": other})
    with known, mock.patch("autopar.capture.capture", return_value=captured()):
        return autopar.compile(MODEL, INPUTS, grid="2")


def boom(*given):
    raise KeyError("boom")


@pytest.mark.parametrize("part", ["emit", "flops", "inner", "skew", "launches", "keeps"])
def test_a_record_that_raises(part):
    one = compiled(**{part: boom})
    assert [(found.target, found.calls) for found in unruled(one.plan)] == [("aten.linear.default", 2)]
    assert "KeyError: 'boom'" in unruled(one.plan)[0].letters
    assert one.source.count("aten.linear") == 2


def test_a_rule_that_raises_or_does_not_fit():
    rules = [boom, lambda call: dataclasses.replace(LINEAR.rule(call), operands=LINEAR.rule(call).operands[:2])]
    rules += [
        lambda call: dataclasses.replace(LINEAR.rule(call), extents={}),
        lambda call: letters("b k, n k, n -> b n", call),
    ]
    with mock.patch("autopar.ops.discovery.discover.discovered", return_value=None):
        told = [unruled(compiled(rule=rule).plan) for rule in rules]
    assert ["KeyError" in one[0].letters if one else None for one in told] == [True, False, False, None]
    assert all("does not describe" in one[0].letters or "number of tensors" in one[0].letters for one in told[1:3])


def test_a_call_that_the_checker_objects_to():
    checked = soundness._check_run

    def objecting(step):
        if step.annotated.node.target == "aten.linear.default" and not step.annotated.node.whole:
            raise soundness.UnsoundProgram("it adds what it should copy")
        checked(step)

    with mock.patch.object(soundness, "_check_run", objecting):
        (one,) = unruled(compiled().plan)
    assert one.target == "aten.linear.default"
    assert "it adds what it should copy" in one.letters


def test_what_goes_wrong_elsewhere_is_told_as_a_mistake_of_ours():
    with (
        mock.patch.object(emit, "_title", boom),
        pytest.raises(errors.InternalError, match="mistake of autopar") as told,
    ):
        compiled()
    assert isinstance(told.value.__cause__, KeyError)
