"""The names of a program's parameters."""

import pytest
import torch

from autopar.runtime.program.namespace import Namespace
from autopar.runtime.program.program import matches

NAMES = ["h.0.ln.weight", "h.2.ln.weight", "h.10.ln.weight", "0.weight", "odd-name.class", "bias"]


@pytest.fixture
def p():
    return Namespace({name: torch.tensor(i) for i, name in enumerate(NAMES)})


def test_attributes_and_indices(p):
    assert p.h[2].ln.weight == 1
    assert p[0].weight == 3
    assert p["odd-name"]["class"] == 4
    assert p["bias"] is p.bias


def test_numbered_entries_in_numerical_order(p):
    assert [int(layer.ln.weight) for layer in p.h] == [0, 1, 2]
    assert len(p.h) == 3
    assert list(p.h[0]) == []


def test_names_that_are_not_there(p):
    with pytest.raises(AttributeError, match="no parameter or module 'wieght' here; did you mean 'weight'"):
        p.h[2].ln.wieght  # noqa: B018
    with pytest.raises(KeyError, match="3 is not among 0, 2, 10"):
        p.h[3]


def test_a_star_is_one_component():
    assert matches("h.*.ln.weight", "h.10.ln.weight")
    assert not matches("h.*.weight", "h.0.ln.weight")
    assert not matches("h.*", "h")
    assert matches("*", "bias")
    assert not matches("h.1*.w", "h.10.w")
