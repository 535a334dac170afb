"""Prices of attention and of a loss that are split where their parts need each other."""

import pytest

from autopar.costmodel import compute
from autopar.ir.graph import Node, Ref, Value
from autopar.ir.grid import GridShape
from autopar.ir.machine import load
from autopar.ops.record.rule import Call, split_choice, whole_choice
from autopar.ops.registry import registry

MACHINE = load("cpu")
B, H, T, S, E = 8, 12, 1024, 1024, 64


def attention(causal):
    operands = tuple(Value(name, (B, H, T, E), "float32", True) for name in "qkv")
    node = Node("y", "aten.scaled_dot_product_attention.default", (*map(Ref, "qkv"), None, 0.0, causal), (), ("y",))
    return Call(node, operands, (Value("y", (B, H, T, E), "float32", True),))


def loss():
    operands = (Value("x", (4096, 50000), "float32", True), Value("t", (4096,), "int64", False))
    node = Node("y", "aten.cross_entropy_loss.default", (Ref("x"), Ref("t")), (), ("y",))
    return Call(node, operands, (Value("y", (), "float32", True),))


def priced(call, letters, grid):
    """(seconds of the call, (primitive, axis, bytes forward, bytes back) of what it sends)."""
    op = registry()[call.node.target]
    rule = op.rule(call)
    choices = tuple(split_choice(rule, call, one) if one else whole_choice(call, "replicate") for one in letters)
    shape = GridShape.parse(grid)
    sent = compute.inner_conversions(call, rule, op, choices, shape, MACHINE)
    rows = [(one.primitive, one.axis, one.bytes_forward, one.bytes_adjoint) for one in sent]
    return compute.node_seconds(call, rule, op, choices, shape, MACHINE), rows


@pytest.mark.parametrize("letter", ["t", "s"])
def test_under_a_causal_mask_one_rank_has_more_to_do(letter):
    (whole, _), _ = priced(attention(True), [""], "2")
    (split, _), _ = priced(attention(True), [letter], "2")
    assert split == pytest.approx(whole * 3 / 4, rel=0.01)  # the lower half of the square: three of its four triangles
    (heads, _), _ = priced(attention(True), ["b1"], "2")
    assert heads == pytest.approx(whole / 2)
    (full, _), _ = priced(attention(False), [""], "2")
    assert full == pytest.approx(2 * whole)
    (split, _), _ = priced(attention(False), [letter], "2")
    assert split == pytest.approx(full / 2, rel=0.01)


def test_splitting_the_features_of_values_saves_half_of_the_work():
    (whole, _), _ = priced(attention(False), [""], "4")
    (split, _), _ = priced(attention(False), ["f"], "4")
    assert split == pytest.approx(whole * (1 + 1 / 4) / 2)


def test_split_keys_exchange_a_number_per_row():
    rows = 4.0 * B * H * T
    assert priced(attention(False), ["s"], "4")[1] == [("all_sum", 0, rows, rows)]
    assert priced(attention(False), ["s", "b0"], "4x2")[1] == [("all_sum", 0, rows / 2, rows / 2)]
    assert priced(attention(True), ["t"], "4")[1] == []


def test_split_classes_exchange_a_number_per_sample():
    assert priced(loss(), ["v"], "2")[1] == [("all_sum", 0, 4.0 * 4096, 0.0)]
    assert priced(loss(), ["n", "v"], "2x2")[1] == [("all_sum", 0, 8.0, 0.0), ("all_sum", 1, 2.0 * 4096, 0.0)]


def test_a_distributed_form_takes_its_small_operations():
    """Half of a small table is not looked up in half of the time."""
    operands = (Value("w", (128, 64), "float32", True), Value("i", (1, 128), "int64", False))
    node = Node("y", "aten.embedding.default", (Ref("w"), Ref("i")), (), ("y",))
    call = Call(node, operands, (Value("y", (1, 128, 64), "float32", True),))
    (whole, back), _ = priced(call, [""], "2")
    forward, backward = priced(call, ["v"], "2")[0]
    assert forward >= 9 * MACHINE.launch_floor + whole / 2
    assert backward >= 2 * MACHINE.launch_floor + back / 2
    assert priced(call, ["v"], "1")[0] == pytest.approx((whole, back))
