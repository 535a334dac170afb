"""What the proof stands on: tensors of every kind, parts that make up the whole, and a comparison that sees differences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import autopar
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Partial, Replicate, Shard
from autopar.ops import Op, Sample, T, function, letters
from autopar.ops.record.rule import choices
from autopar.ops.registry import registry
from autopar.proof.cases import jobs, readings
from autopar.proof.reference import filled, whole_of
from autopar.proof.shards import compare, laid_out, spread_out
from autopar.runtime import Grid, simulate

LINEAR = registry()["aten.linear.default"]


def drawn(kind, shape=(4, 6)):
    return filled(T(shape, kind), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["normal", "unit", "complex", "float32", "bfloat16 unit", "float16 constant"])
def test_numbers(kind):
    tensor = drawn(kind)
    words = kind.split()
    dtypes = {"complex": "complex128", "normal": "float64", "unit": "float64"}
    assert tensor.dtype == getattr(torch, dtypes.get(words[0], words[0]))
    assert tensor.requires_grad == ("constant" not in kind)
    assert tensor.is_leaf
    if "unit" in kind:
        assert 0 < tensor.min() < tensor.max() < 1


def test_kinds_without_a_gradient():
    assert (drawn("sorted 9").diff() >= 0).all()
    assert drawn("index 9").max() < 9
    assert all(len(set(row)) == 6 for row in drawn("distinct 7").tolist())
    assert set((drawn("labels 3", (40,)) == -100).tolist()) == {True, False}
    assert drawn("mask", (50, 2)).any(-1).all()
    torch.testing.assert_close(drawn("probabilities 0").sum(0), torch.ones(6, dtype=torch.float64))
    with pytest.raises(AssertionError, match="distinct"):
        drawn("distinct 5")
    with pytest.raises(AssertionError, match="no kind"):
        drawn("something")


LAYOUTS = st.sampled_from([Replicate(), Copied(), Partial(), Shard(0), Shard(1), Shard(1, 2, 2), Shard(0, 2, 1)])


@given(st.tuples(LAYOUTS, LAYOUTS), st.sampled_from([None, (0.0, 0.3, 1.0), (0.0, 0.0, 1.0)]))
def test_parts_make_up_the_whole(layouts, cuts):
    one, other = layouts
    if isinstance(one, Shard) and isinstance(other, Shard) and one.dim == other.dim and one != other:
        return  # cuts of one dim that cross
    whole = drawn("constant", (8, 8))

    def rank():
        axes = Grid("2x2").axes
        axes[0].move(cuts)
        part = laid_out(whole, layouts, axes, 3)
        return spread_out(part, whole.shape, layouts, axes)

    parts = simulate(4, rank)
    compare("parts", parts, layouts, (2, 2), whole)
    parts[2] = parts[2] + 1e-9
    with pytest.raises(AssertionError, match="off by"):
        compare("parts", parts, layouts, (2, 2), whole)


def test_everything_is_tried():
    whole = whole_of(LINEAR, LINEAR.samples[0])
    rule = LINEAR.rule(whole.call)
    every = choices(rule, whole.call, readings(rule))
    for few in (False, True):
        alone = {job.strategy for job in jobs(rule, every, (2,), few)}
        assert alone == {(one,) for one in every}
        pairs = {tuple(one.letter for one in job.strategy) for job in jobs(rule, every, (2, 2), few)}
        assert len(pairs) >= 5
        assert {letter for pair in pairs for letter in pair} == {"", "b0", "k", "n"}
    empty = {job.cuts for job in jobs(rule, every, (2,))}
    assert {((0.0, 0.0, 1.0),), ((0.0, 0.3, 1.0),), (None,)} <= empty


def test_a_record_without_samples_proves_nothing():
    op = Op(
        "mine", ("aten.relu.default",), "b* -> b*", lambda call: letters("b* -> b*", call), function("torch.relu", 1)
    )
    with pytest.raises(AssertionError, match="no samples"):
        autopar.prove_operator(op)
    tried = autopar.prove_operator(Op(op.name, op.targets, op.note, op.rule, op.emit, samples=(Sample((T((4, 6)),)),)))
    assert tried > GridShape.parse("2x2").size
