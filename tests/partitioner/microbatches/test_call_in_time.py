"""What becomes of a call in micro-batches, by execution: every record, each of its letters as the batch, in two uneven parts."""

from dataclasses import replace

import pytest
import torch

from autopar.ir.layout import Replicate, Shard
from autopar.ops.annotated import AnnotatedCall
from autopar.ops.interpreter import operator
from autopar.ops.record.overloads import evaluated
from autopar.ops.registry import registry
from autopar.partitioner.microbatches.batch_letter import CallPair
from autopar.partitioner.microbatches.call_in_time import in_time
from autopar.partitioner.microbatches.time_layouts import MEAN, Stuck
from autopar.proof.record_proof import rule_or_none
from autopar.proof.reference import REFUSED, tensors, whole_of
from autopar.runtime.pipeline.microbatches import joined, microbatches_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LITERAL = ("new_zeros", "new_ones", "new_full")  # a program prints their extents for its rows; here the sample's stay
RECORDS = {op.name: op for op in registry().values() if op.samples and not op.random and op.name not in LITERAL}
GROWN = 2  # times as many rows in the graph beside


def grown(op, call, rule, letter):
    """The call with more rows, by shapes alone: where the letter is in a dim of a tensor."""

    def more(value, dims):
        shape = tuple(n * GROWN if letter in names else n for n, names in zip(value.shape, dims, strict=True))
        return replace(value, shape=shape) if value.name else value

    operands = tuple(map(more, call.operands, rule.operands))
    return replace(call, operands=operands, results=tuple(map(more, call.results, rule.results)))


def cases(op):
    """(the sample run whole, the pair of calls, the layouts of its operands) for every letter that may be the batch."""
    for sample in op.samples:
        sample = replace(sample, target=sample.target or op.targets[0])
        whole = whole_of(op, sample)
        rule = rule_or_none(op, whole)
        if rule is None or len(tensors(sample.args)) != len(rule.operands):
            continue
        alone = dict.fromkeys(dim[0] for dims in rule.operands for dim in dims if len(dim) == 1)
        for letter in (letter for letter in alone if letter in rule.letters):
            more = grown(op, whole.call, rule, letter)
            other = rule_or_none(op, replace(whole, call=more))
            if other is None:
                continue
            pair = CallPair(
                AnnotatedCall(whole.call.node, op, whole.call, rule), AnnotatedCall(more.node, op, more, other),
                rule.extents[letter], rule.extents[letter] * GROWN,
            )  # fmt: skip
            layouts = [Shard(dims.index((letter,))) if (letter,) in dims else Replicate() for dims in rule.operands]
            yield whole, pair, layouts


def in_parts(whole, pair, layouts, plain):
    """The results of the call put together from those of two micro-batches."""
    every, results = microbatches_of((0, 1, pair.rows)), []
    for one in every:
        values = {}
        for i, (x, layout) in enumerate(zip(whole.operands, layouts, strict=True)):
            part = x.detach().narrow(layout.dim, one.start, one.size) if isinstance(layout, Shard) else x.detach()
            values[f"x{i}"] = part * one.share if i in plain.shared else part
        node = pair.here.node
        named = {key: evaluated(value, values) for key, value in node.kwargs}
        found = operator(node.target)(*(evaluated(value, values) for value in node.args), **named)
        made = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        results.append([part * one.share if plain.scaled else part for part in made])
    pairs = zip(plain.results, zip(*results, strict=True), strict=True)
    return [joined(parts, every, str(layout)) for layout, parts in pairs]


def test_results_of_micro_batches_are_those_of_the_batch():
    wrong, tried, means = [], 0, 0
    for name, op in RECORDS.items():
        for whole, pair, layouts in cases(op):
            try:
                plain = in_time(pair, layouts)
                found = in_parts(whole, pair, layouts, plain)
            except (Stuck, *REFUSED):  # REFUSED: the sample has the number of its rows as an extent in its text
                continue
            tried += 1
            means += MEAN in plain.results
            for one, expected in zip(found, whole.results, strict=True):
                close = one.shape == expected.shape and torch.allclose(
                    one.to(expected.dtype), expected.detach(), rtol=1e-9, atol=1e-12, equal_nan=True
                )
                wrong += [] if close else [f"{name}: {pair.here.node}, {layouts} -> {plain}"]
    assert not wrong
    assert tried > 1000
    assert means > 10
