"""Asserts about the numbers in a tensor are left out of a program, and stay in the model."""

import logging

import pytest
import torch
from asserting import Checked, Raises, finite
from capture_refused import refused
from compiling import SLOW
from trained import assert_trains_the_same

import autopar


def test_a_program_has_no_asserts_about_numbers_and_the_model_keeps_them(caplog):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Checked(), torch.randn(8, 6)
    codes = Checked.forward.__code__, finite.__code__
    with caplog.at_level(logging.WARNING, "autopar"):
        one = autopar.compile(model, (x,), grid="2", machine=SLOW)
    assert (Checked.forward.__code__, finite.__code__) == codes
    assert "asserting.py" in caplog.text
    assert '`assert not torch.isnan(h).any(), "NaN"`: the program does not check this' in caplog.text
    assert one.plan.batch.fixed == ""
    assert_trains_the_same(one, model, {"x": x})
    with pytest.raises(AssertionError, match="NaN"):
        model(x * torch.nan)


def test_looks_outside_of_asserts_are_refused():
    assert "`if self.a(x).max() > 1e6:`" in refused(Raises, (torch.randn(8, 6),))
