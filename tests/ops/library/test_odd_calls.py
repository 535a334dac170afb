"""Tensors without elements, lists of one, arguments that are seldom given: whole and split, forward and backward, as eager.

All samples of a kind are one model, which is compiled once and run with every letter of every call.
"""

import pytest
from odd_calls import ARGUMENTS, EMPTIED, LISTS

from benchmarks.compatibility.opdb_trial import outcome


@pytest.mark.parametrize("samples", [EMPTIED, LISTS, ARGUMENTS], ids=["emptied", "lists of one", "arguments"])
def test_every_letter_computes_what_eager_computes(samples):
    assert outcome(list(samples), ("2", "3")) == ("ok", "")
