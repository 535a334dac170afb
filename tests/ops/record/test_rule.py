"""Letters: common factors of shapes, the notation, and what follows from a split."""

import math
from dataclasses import replace

import pytest
import torch
from discover_operators import REFUSED
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.ir.graph import Graph, Node, Ref, Value
from autopar.ir.layout import Copied, Partial, Replicate, Shard
from autopar.ops.lookup import call_of, op_of, rule_of
from autopar.ops.record.emit_context import Local, emit_context
from autopar.ops.record.printing import Expr
from autopar.ops.record.rule import (
    Call,
    choices,
    fills,
    letters,
    linear_choice,
    shard_of,
    split_choice,
    whole_choice,
)
from autopar.ops.record.shape_factors import factor

FACTORS = st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=5)


@st.composite
def shapes(draw):
    """Two shapes of the same number of elements: the same factors, gathered and ordered differently."""
    factors = draw(FACTORS)
    one = _gathered(draw, factors)
    other = _gathered(draw, draw(st.permutations(factors)) if draw(st.booleans()) else factors)
    return one, other


def _gathered(draw, factors):
    shape = [1]
    for n in factors:
        if draw(st.booleans()):
            shape.append(n)
        else:
            shape[-1] *= n
    return tuple(shape)


@given(shapes())
@settings(max_examples=60, deadline=None)
def test_every_splittable_factor_passes_through_a_reshape(pair):
    """A part of the operand along a letter, reshaped to the local sizes, is that part of the result."""
    before, after = pair
    found = factor(before, after)
    for shape, dims in ((before, found.before), (after, found.after)):
        assert shape == tuple(math.prod(found.extents[name] for name in names) for names in dims)
    x = torch.arange(math.prod(before)).reshape(before)
    for letter, n in found.extents.items():
        if letter in found.frozen:
            continue
        part = _part(x, shard_of(found.before, found.extents, letter), n)
        local = [math.prod(n - 1 if name == letter else found.extents[name] for name in names) for names in found.after]
        assert torch.equal(
            part.reshape(local), _part(x.reshape(after), shard_of(found.after, found.extents, letter), n)
        )


def _part(x, shard, n):
    """All but the first of the n rows of a factor."""
    rows = x.unflatten(shard.dim, (shard.blocks, n, shard.unit)).narrow(shard.dim + 1, 1, n - 1)
    return rows.flatten(shard.dim, shard.dim + 2)


@given(FACTORS)
def test_a_reshape_to_the_same_shape_freezes_nothing(shape):
    assert not factor(shape, shape).frozen


def test_crossing_boundaries_are_frozen_together_and_alone():
    found = factor((5, 2, 3), (5, 3, 2))
    assert set(found.extents) - found.frozen == {"a"}


def value(name, *shape, flows=True, dtype="float32"):
    return Value(name, shape, dtype, flows)


def call(target, operands, results, *args):
    node = Node(
        "call", target, args or tuple(Ref(one.name) for one in operands), (), tuple(one.name for one in results)
    )
    return Call(node, tuple(operands), tuple(results))


def test_layouts_of_a_linear():
    one = call("aten.linear.default", [value("x", 8, 6), value("w", 4, 6), value("b", 4)], [value("y", 8, 4)])
    rule = letters("b* k, n k, n? -> b* n", one)
    assert rule.letters == ("b0", "k", "n")
    assert split_choice(rule, one, "b0").operands == (Shard(0), Copied(), Copied())
    assert split_choice(rule, one, "n").results == (Shard(1),)
    assert split_choice(rule, one, "k").results == (Partial(),)


def test_integers_are_never_partial_and_know_one_meaning_of_whole():
    one = call(
        "aten.embedding.default", [value("w", 9, 4), value("i", 8, flows=False, dtype="int64")], [value("y", 8, 4)]
    )
    rule = letters("[v] d, b* -> b* d", one)
    assert whole_choice(one, "copied").operands == (Copied(), Replicate())
    counted = call("t", [value("i", 8, flows=False, dtype="int64")], [value("n", flows=False, dtype="int64")])
    assert split_choice(letters("d ->", counted), counted, "d") is None
    assert linear_choice(one, frozenset({0})).operands == (Partial(), Replicate())
    assert {choice.letter for choice in choices(rule, one, {})} == {"", "d", "b0"}


def test_a_frozen_bias_is_still_added_once():
    one = call("t", [value("x", 8, 6), value("w", 4, 6), value("b", 4, flows=False)], [value("y", 8, 4)])
    rule = rule_of_linear(one)
    assert split_choice(rule, one, "k").operands[2] == Partial()


def rule_of_linear(one):
    from autopar.ops.library.linear import biased

    return biased(letters("b* k, n k, n? -> b* n", one))


def test_notation_that_does_not_fit_is_refused():
    one = call("t", [value("x", 8, 6), value("w", 4, 5)], [value("y", 8, 4)])
    with pytest.raises(ValueError, match="extent"):
        letters("b* k, n k -> b* n", one)
    with pytest.raises(ValueError, match="does not describe"):
        letters("a b c, n k -> b* n", one)
    with pytest.raises(ValueError, match="is not given"):
        letters("b* k, n l, q -> b* n", one)


def test_a_call_without_letters_runs_whole():
    known = {"x": value("x", 4, 4), "y": value("y", 4, 4)}
    assert "discovery.noise.default" in REFUSED
    node = Node("a", "discovery.noise.default", (Ref("x"),), (), ("y",))
    graph = Graph("g", (), (), (node,), known, "y")
    rule, op = rule_of(graph, node), op_of(node)
    assert rule.refused
    assert rule.letters == ()
    for target, line in (
        ("discovery.noise.default", "torch.ops.discovery.noise(x)"),
        ("aten.matrix_exp.default", "torch.matrix_exp(x)"),
        ("aten.linalg_inv.default", "torch.ops.aten.linalg_inv.default(x)"),
    ):
        call = replace(call_of(graph, node), node=replace(node, target=target))
        assert op.emit(emit_context(call, rule, Local(), [Expr("x")])) == line


def test_channels_need_a_row_on_every_rank():
    one = call("t", [value("x", 2, 3, 8), value("w", 4, 3, 1)], [value("y", 2, 4, 8)])
    rule = replace(letters("n c w, k c [r] -> n k w", one), filled=frozenset("ck"))
    assert fills(rule, (split_choice(rule, one, "c"), split_choice(rule, one, "k")), (3, 4))
    assert not fills(rule, (split_choice(rule, one, "c"), split_choice(rule, one, "c")), (2, 2))
    assert not fills(rule, (split_choice(rule, one, "k", 2, 1),), (3,))
    assert fills(rule, (split_choice(rule, one, "n"),), (3,))
