"""Readings of a dim: those that let a split pass a view, found from near and far, and none that does not fit."""

import math

import pytest
from compiling import EVERY, captured
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.ir.graph import Graph, Input, Node, Ref, Value, check
from autopar.ops.annotated import annotate
from autopar.ops.record.rule import choices
from autopar.partitioner.formulation.dim_factors import of_letters, propagate


def of(graph):
    annotated = annotate(graph)
    return propagate(annotated), annotated.calls


def views(*shapes):
    """A graph that looks at one tensor in one shape after another."""
    values = {f"v{i}": Value(f"v{i}", shape, "float32", True) for i, shape in enumerate(shapes)}
    nodes = [
        Node(f"v{i}", "aten.view.default", (Ref(f"v{i - 1}"), shape), (), (f"v{i}",))
        for i, shape in enumerate(shapes)
        if i
    ]
    total = Node("loss", "aten.sum.default", (Ref(f"v{len(shapes) - 1}"),), (), ("loss",))
    values["loss"] = Value("loss", (), "float32", True)
    graph = Graph("views", (Input("v0", "v0"),), (), (*nodes, total), values, "loss")
    check(graph)
    return graph


factors = st.lists(st.integers(2, 4), min_size=2, max_size=5)


@settings(deadline=None)
@given(factors, st.data())
def test_a_view_gives_the_whole_dim_the_readings_of_its_factors(shape, data):
    """n = a b c, seen as [a, b, c]: factor b is the reading (a, c). It comes back through a view of the view."""
    found, _ = of(views((math.prod(shape),), tuple(shape), (math.prod(shape[:2]), *shape[2:]), (math.prod(shape),)))
    at = data.draw(st.integers(0, len(shape) - 1))
    reading = (math.prod(shape[:at]), math.prod(shape[at + 1 :]))
    for name, dim in (("v0", 0), ("v3", 0)):
        cheapest = sorted(found[name, dim], key=lambda one: (one[0] * one[1], one))
        assert reading in found[name, dim] or len(cheapest) == 6  # the coarsest ones are dropped beyond six
    assert (1, 1) in found["v1", at]


@settings(deadline=None)
@given(factors)
def test_a_split_of_any_factor_passes_a_view_without_communication(shape):
    """For each factor's letter some choice of the view has the shards of that factor on both sides."""
    graph = views((math.prod(shape),), tuple(shape))
    found, calls = of(graph)
    item = calls["v1"]
    call, rule = item.call, item.rule
    every = [one for one in choices(rule, call, of_letters(found, item)) if one.mode == "split"]
    for at in range(len(shape)):
        before, after = math.prod(shape[:at]), math.prod(shape[at + 1 :])
        assert [one for one in every if (one.operands[0].blocks, one.operands[0].unit) == (before, after)
                and one.results[0].dim == at]  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_every_reading_fits_its_dim(name):
    graph = captured(name).graph
    found, calls = of(graph)
    for (value, dim), readings in found.items():
        extent = graph.values[value].shape[dim]
        assert (1, 1) in readings
        assert len(readings) <= 6
        assert all(extent % (blocks * unit) == 0 for blocks, unit in readings)
    for item in calls.values():
        rule = item.rule
        for letter, readings in of_letters(found, item).items():
            assert (1, 1) in readings
            assert all(rule.extents[letter] % (blocks * unit) == 0 for blocks, unit in readings)
            if letter in rule.windows:
                assert readings == ((1, 1),)


@pytest.mark.parametrize("name", ["gpt", "heads", "conv"])
def test_nothing_more_is_learned_by_passing_on(name):
    """The readings are a fixed point: every call has given all its dims the readings of its letters."""
    graph = captured(name).graph
    found, calls = of(graph)
    for item in calls.values():
        call, rule = item.call, item.rule
        dims = zip((*call.operands, *call.results), (*rule.operands, *rule.results), strict=True)
        for letter, readings in of_letters(found, item).items():
            for value, letters in dims:
                for dim, names in enumerate(letters):
                    if names == (letter,) and len(found[value.name, dim]) < 6:
                        assert set(readings) <= found[value.name, dim]


def test_heads_of_a_fused_projection():
    """24 features as 3 x 4 heads x 2: the product knows the reading under which heads can be split."""
    graph = captured("heads").graph
    found, calls = of(graph)
    product = next(node for node in graph.nodes if node.target == "aten.linear.default")
    assert (3, 2) in of_letters(found, calls[product.name])["n"]
    weight, bias = product.inputs[1:]
    assert (3, 2) in found[weight, 0]
    assert (3, 2) in found[bias, 0]


def test_batch_and_sequence_flattened_for_the_loss():
    """3 of 4 tokens have a target: the loss's 12 samples are 4 sequences of 3."""
    graph = captured("gpt").graph
    found, calls = of(graph)
    loss = next(node for node in graph.nodes if node.outputs == (graph.loss,))
    assert {(1, 3), (4, 1)} <= set(of_letters(found, calls[loss.name])["n"])
