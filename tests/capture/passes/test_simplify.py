"""Each pass on its own: what it drops, and that what is left computes the same numbers."""

import math
from dataclasses import replace

import pytest
import torch
from capture_builder import Builder, assert_equal, kinds, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.capture.passes.patterns import affine, batch_norm, gelu
from autopar.capture.passes.rewriting import dead_code
from autopar.capture.passes.simplify import (
    drop_copies,
    drop_dropout,
    drop_neutral,
    drop_same_shape,
    expand_broadcasts,
    merge_reshapes,
    simplify,
)
from autopar.ir.graph import Dtype, Ref
from autopar.ops.interpreter import run


def test_copies_go_and_a_real_detach_stays():
    b = Builder()
    w = b.parameter("w", 3)
    x = b.call("aten.detach.default", b.call("aten.clone.default", b.call("aten.alias.default", w)))
    graph = b.graph(b.call("aten.mul.Tensor", b.call("aten.detach.default", b.input("x", 3)), x))
    after = drop_copies(graph)
    assert kinds(after) == ["detach", "mul"]
    assert after.nodes[0].args == (Ref("w"),)
    assert_equal(graph, after)


@pytest.mark.parametrize(("p", "train", "left"), [(0.0, True, 0), (0.5, False, 0), (0.5, True, 1)])
def test_dropout_goes_where_it_drops_nothing(p, train, left):
    b = Builder()
    graph = b.graph(b.call("aten.neg.default", b.call("aten.dropout.default", b.input("x", 3), p, train)))
    assert kinds(drop_dropout(graph)).count("dropout") == left


def test_neutral_elements_go():
    b = Builder()
    x = b.input("x", 3)
    for target, literal in (("add", 0), ("sub", 0), ("mul", 1.0), ("div", 1)):
        x = b.call(f"aten.{target}.Tensor", x, literal)
    x = b.call("aten.slice.Tensor", x, 0, 0, 3, 1)
    graph = b.graph(b.call("aten.add.Tensor", b.call("aten.mul.Tensor", x, 2), 1))
    after = drop_neutral(graph)
    assert [node.args[1] for node in after.nodes] == [2, 1]
    assert_equal(graph, after)


def test_neutral_element_that_changes_the_dtype_stays():
    b = Builder()
    graph = b.graph(b.call("aten.add.Tensor", b.input("n", 3, dtype=torch.int64), 0.0))
    assert drop_neutral(graph) == graph


def test_zero_minus_x_is_not_x():
    b = Builder()
    x = b.input("x", 3)
    graph = b.graph(b.call("aten.sub.Tensor", b.call("aten.zeros_like.default", x), x))
    assert drop_neutral(graph) == graph


def test_shapes_and_dtypes_that_are_there_already():
    b = Builder()
    x = b.call("aten.reshape.default", b.input("x", 2, 3), (2, 3))
    x = b.call("aten._to_copy.default", b.call("aten.expand.default", x, (2, 3)), dtype=Dtype("float64"))
    graph = b.graph(b.call("aten._to_copy.default", b.call("aten.reshape.default", x, (3, 2)), dtype=Dtype("float32")))
    after = drop_same_shape(graph)
    assert kinds(after) == ["reshape", "_to_copy"]
    assert after.nodes[0].args == (Ref("x"), (3, 2))


def test_reshapes_merge():
    b = Builder()
    x = b.call("aten.transpose.int", b.input("x", 2, 3, 4), 0, 1)
    first = b.call("aten.reshape.default", x, (6, 4))
    graph = b.graph(b.call("aten.reshape.default", b.call("aten.reshape.default", first, (24,)), (4, 6)))
    after = merge_reshapes(graph)
    assert kinds(after) == ["transpose", "reshape"]
    assert_equal(graph, after)


def test_broadcasts_become_expands_of_what_is_smaller():
    b = Builder()
    one, two = b.call("aten.broadcast_tensors.default", (b.input("x", 2, 3), b.input("y", 3)), outputs=2)
    graph = b.graph(b.call("aten.mse_loss.default", one, two))
    after = drop_same_shape(expand_broadcasts(graph))
    assert kinds(after) == ["expand", "mse_loss"]
    assert_equal(graph, after)


def test_dead_code_keeps_updates_and_parameters():
    b = Builder()
    x, count, w = b.input("x", 3), b.parameter("count", kind="buffer"), b.parameter("w", 3)
    b.parameter("table", 3, kind="constant")
    b.call("aten.exp.default", x)
    new = b.call("aten.add.Tensor", count, 1)
    low, _ = b.call("aten.split.Tensor", b.call("aten.mul.Tensor", x, w), 2, 0, outputs=2)
    graph = b.graph(b.call("aten.sum.default", low), (("count", new.name),))
    after = dead_code(graph)
    assert kinds(after) == ["add", "mul", "split", "sum"]
    assert after.nodes[2].outputs == (low.name, "")
    assert [item.name for item in after.parameters] == ["count", "w"]
    assert dead_code(after) == after
    assert_equal(graph, after)


def test_update_by_itself_is_none():
    b = Builder()
    b.parameter("buffer", 3, kind="buffer")
    graph = b.graph(b.call("aten.sum.default", b.input("x", 3)), (("buffer", "buffer"),))
    assert dead_code(graph).updates == ()


@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("form", ["addmm", "linear"])
def test_affine_between_reshapes_keeps_its_dims(lead, form):
    b = Builder()
    x, bias = b.parameter("x", *lead, 4), b.parameter("bias", 6)
    weight = b.parameter("weight", *((4, 6) if form == "addmm" else (6, 4)))
    rows = b.call("aten.reshape.default", x, (math.prod(lead), 4))
    if form == "addmm":
        flat = b.call("aten.addmm.default", bias, rows, weight)
    else:
        flat = b.call("aten.linear.default", rows, weight, bias)
    graph = b.graph(b.call("aten.exp.default", b.call("aten.reshape.default", flat, (*lead, 6))))
    after = drop_same_shape(affine(graph))
    assert kinds(after) == [{"addmm": "affine", "linear": "linear"}[form], "exp"]
    assert after.values[after.nodes[0].inputs[0]].shape == (*lead, 4)
    assert_equal(graph, after)


def test_affine_regroups_rows_that_come_in_other_dims():
    b = Builder()
    x, bias, weight = b.parameter("x", 2, 3, 2, 2), b.parameter("bias", 6), b.parameter("weight", 4, 6)
    flat = b.call("aten.addmm.default", bias, b.call("aten.reshape.default", x, (6, 4)), weight)
    graph = b.graph(b.call("aten.reshape.default", flat, (3, 2, 6)))
    after = affine(graph)
    assert kinds(after) == ["reshape", "affine"]
    assert_equal(graph, after)


def test_affine_whose_rows_are_read_twice_stays_flat():
    b = Builder()
    x, bias, weight = b.parameter("x", 2, 3, 4), b.parameter("bias", 6), b.parameter("weight", 4, 6)
    flat = b.call("aten.addmm.default", bias, b.call("aten.reshape.default", x, (6, 4)), weight)
    deep = b.call("aten.sum.default", b.call("aten.reshape.default", flat, (2, 3, 6)))
    graph = b.graph(b.call("aten.add.Tensor", deep, flat))
    after = affine(graph)
    assert kinds(after) == ["reshape", "affine", "reshape", "sum", "add"]
    assert_equal(graph, after)


def test_scaled_addmm_stays():
    b = Builder()
    flat = b.call("aten.addmm.default", b.input("bias", 6), b.input("x", 3, 4), b.input("w", 4, 6), alpha=2)
    assert kinds(affine(b.graph(flat))) == ["addmm"]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_one_call_in_training(training):
    b = Builder()
    x, weight, bias = b.parameter("x", 2, 3, 4), b.parameter("weight", 3), b.parameter("bias", 3)
    mean, var = b.parameter("mean", 3, kind="buffer"), b.parameter("var", 3, kind="buffer")
    target = "aten._native_batch_norm_legit_functional.default"
    made = b.call(target, x, weight, bias, mean, var, training, 0.1, 1e-5, outputs=5)
    graph = b.graph(b.call("aten.exp.default", made[0]), (("mean", made[3].name), ("var", made[4].name)))
    after = batch_norm(graph)
    assert (after.nodes[0].target == "autopar.batch_norm") == training
    if training:
        assert after.nodes[0].args == (x, weight, bias, mean, var, 0.1, 1e-5)
        assert not after.values[made[3].name].differentiable
        before, now = run(graph.nodes, tensors(graph)), run(after.nodes, tensors(graph))
        for _, name in graph.updates:
            torch.testing.assert_close(now[name], before[name], rtol=1e-12, atol=1e-12)
    assert_equal(graph, after)


FACTOR = math.sqrt(2 / math.pi)


def tanh_formula(b, x, cubic=0.044715, factor=FACTOR):
    """0.5 x (1 + tanh(factor (x + cubic x^3))), as Hugging Face writes it."""
    inner = b.call("aten.add.Tensor", x, b.call("aten.mul.Tensor", b.call("aten.pow.Tensor_Scalar", x, 3.0), cubic))
    outer = b.call("aten.tanh.default", b.call("aten.mul.Tensor", inner, factor))
    return b.call("aten.mul.Tensor", b.call("aten.mul.Tensor", x, 0.5), b.call("aten.add.Tensor", outer, 1.0))


def test_gelu_is_recognised_behind_other_pointwise_calls():
    b = Builder()
    x = b.call("aten.mul.Tensor", b.input("x", 5), b.call("aten.tanh.default", b.input("y", 5)))
    graph = b.graph(b.call("aten.mul.Tensor", tanh_formula(b, x), 3.0))
    after = gelu(graph)
    assert kinds(after) == ["tanh", "mul", "gelu", "mul"]
    assert after.nodes[2].args == (x,)
    assert_equal(graph, after)


@pytest.mark.parametrize("wrong", [{"cubic": 0.0447}, {"factor": 0.8}])
def test_what_is_nearly_gelu_is_none(wrong):
    b = Builder()
    graph = b.graph(tanh_formula(b, b.input("x", 5), **wrong))
    assert gelu(graph) == graph


def test_gelu_whose_parts_are_read_elsewhere_keeps_them():
    b = Builder()
    x = b.input("x", 5)
    y = tanh_formula(b, x)
    inner = next(node.outputs[0] for node in b.nodes if node.target == "aten.tanh.default")
    graph = b.graph(b.call("aten.add.Tensor", y, Ref(inner)))
    after = gelu(graph)
    assert "gelu" in kinds(after)
    assert "tanh" in kinds(after)
    assert_equal(graph, after)


SHAPES = ((24,), (2, 12), (6, 4), (2, 3, 4), (4, 6), (2, 1, 12))


@st.composite
def programs(draw):
    """A chain of calls on 24 numbers, many of which do nothing."""
    b = Builder()
    x = b.input("x", 2, 3, 4)
    w = b.parameter("w", 2, 3, 4)
    seen = [b.call("aten.mul.Tensor", x, w)]
    for _ in range(draw(st.integers(1, 10))):
        x = draw(st.sampled_from(seen))
        shape = b.values[x.name].shape
        kind = draw(
            st.sampled_from(["clone", "detach", "add", "mul", "view", "expand", "drop", "slice", "gelu", "sum", "mm"])
        )
        if kind in ("clone", "detach"):
            y = b.call(f"aten.{kind}.default", x)
        elif kind in ("add", "mul"):
            y = b.call(f"aten.{kind}.Tensor", x, draw(st.sampled_from([0, 1, 0.5])))
        elif kind == "view":
            y = b.call("aten.reshape.default", x, draw(st.sampled_from(SHAPES)))
        elif kind == "expand":
            y = b.call("aten.expand.default", x, shape)
        elif kind == "drop":
            y = b.call("aten.dropout.default", x, 0.0, True)
        elif kind == "slice":
            part = b.call("aten.slice.Tensor", x, 0, 0, draw(st.integers(1, shape[0])), 1)
            y = part if b.values[part.name].shape == shape else x
        elif kind == "gelu":
            y = tanh_formula(b, x)
        elif kind == "sum":
            same = [other for other in seen if b.values[other.name].shape == shape]
            y = b.call("aten.add.Tensor", x, draw(st.sampled_from(same)))
        else:
            square = b.call("aten.reshape.default", w, (24,))
            square = b.call("aten.slice.Tensor", square, 0, 0, 16, 1)
            square = b.call("aten.reshape.default", square, (4, 4))
            bias = b.call("aten.slice.Tensor", b.call("aten.reshape.default", w, (24,)), 0, 0, 4, 1)
            rows = b.call("aten.addmm.default", bias, b.call("aten.reshape.default", x, (6, 4)), square)
            y = b.call("aten.reshape.default", rows, (2, 3, 4))
        seen.append(y)
    return b.graph(b.call("aten.sum.default", draw(st.sampled_from(seen))))


@settings(max_examples=40, deadline=None)
@given(programs())
def test_simplifying_changes_no_number_and_is_done_at_once(graph):
    before = replace(graph)
    after = simplify(graph, {})
    assert graph == before
    assert_equal(graph, after)
    assert len(after.nodes) <= len(graph.nodes)
    assert not {"clone", "expand", "dropout", "alias"} & set(kinds(after))
    again = simplify(after, {})
    assert len(again.nodes) == len(after.nodes)
    weights = tensors(graph)
    if graph.values[graph.loss].differentiable:
        grads = []
        for one in (graph, after):
            leaf = weights["w"].clone().requires_grad_()
            loss = run(one.nodes, {**weights, "w": leaf})[one.loss]
            grads.append(torch.autograd.grad(loss, leaf)[0])
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-9)
