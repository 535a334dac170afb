"""Masks that are made of literals are named for what they are; all others stay."""

import pytest
import torch
from capture_builder import Builder, assert_equal

from autopar.capture.passes.attention_masks import plain_attention
from autopar.capture.passes.rewriting import dead_code
from autopar.ir.graph import Dtype


def attention(mask_of, rows=4, columns=4):
    """Attention whose mask is made by ``mask_of(builder, i, j)`` from row and column numbers."""
    b = Builder()
    q, k, v = b.input("q", 2, 3, rows, 5), b.input("k", 2, 3, columns, 5), b.input("v", 2, 3, columns, 5)
    i = b.call("aten.unsqueeze.default", b.call("aten.arange.default", rows), 1)
    mask = mask_of(b, i, b.call("aten.arange.default", columns))
    return b.graph(b.call("aten.scaled_dot_product_attention.default", q, k, v, mask, scale=0.5))


def no_earlier(b, i, j):
    return b.call("aten.le.Tensor", j, i)


def hidden(b, i, j, lowest=float("-inf")):
    later = b.call("aten.gt.Tensor", j, i)
    zeros = b.call("aten._to_copy.default", b.call("aten.zeros_like.default", later), dtype=Dtype("float64"))
    return b.call("aten.masked_fill.Scalar", zeros, later, lowest)


def lowest_number(b, i, j):
    return hidden(b, i, j, torch.finfo(torch.float64).min)


def everything(b, i, j):
    return b.call("aten.ge.Tensor", b.call("aten.add.Tensor", i, j), b.call("aten.zeros_like.default", i))


def window(b, i, j):
    return b.call("aten.le.Tensor", b.call("aten.sub.Tensor", i, j), b.call("aten.full_like.default", i, 1))


def first_column(b, i, j):
    """One row for all: every query sees the first key."""
    return b.call("aten.lt.Scalar", b.call("aten.unsqueeze.default", j, 0), 1)


def bias_by_distance(b, i, j):
    return b.call("aten._to_copy.default", b.call("aten.sub.Tensor", j, i), dtype=Dtype("float64"))


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize(
    ("mask", "rest"),
    [
        (no_earlier, (None, 0.0, True)),
        (hidden, (None, 0.0, True)),
        (lowest_number, (None, 0.0, True)),
        (everything, ()),
        (window, None),
        (first_column, None),
        (bias_by_distance, None),
    ],
)
def test_masks_made_of_literals(mask, rest, rows):
    graph = attention(mask, rows=rows)
    after = plain_attention(graph, {})
    assert (after.nodes[-1].args[3:] == rest) if rest is not None else after == dead_code(graph)
    assert len(after.nodes) == (1 if rest is not None else len(dead_code(graph).nodes))
    assert_equal(graph, after)


def test_masks_that_are_drawn_stay():
    def drawn(b, i, j):
        numbers = b.call("aten.rand_like.default", b.call("aten._to_copy.default", i, dtype=Dtype("float64")))
        return b.call("aten.ge.Scalar", numbers, 0.0)  # true whatever is drawn, but nobody can know

    graph = attention(drawn)
    assert plain_attention(graph, {}).nodes[-1] == graph.nodes[-1]


@pytest.mark.parametrize("kind", ["input", "parameter", "buffer", "constant"])
def test_only_masks_of_known_numbers_are_looked_at(kind):
    b = Builder()
    q = b.input("q", 1, 1, 3, 5)
    mask = b.input("mask", 3, 3) if kind == "input" else b.parameter("mask", 3, 3, kind=kind)
    graph = b.graph(b.call("aten.scaled_dot_product_attention.default", q, q, q, mask))
    known = {"mask": torch.zeros(3, 3, dtype=torch.float64)}
    after = plain_attention(graph, known)
    assert (after.nodes[-1].args == (q, q, q)) == (kind == "constant")
    assert plain_attention(graph, {}) == graph
