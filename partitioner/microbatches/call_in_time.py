"""What becomes of one call when the batch is cut into micro-batches: the layouts of its results, by its own letters.

A call with rows is split over its batch letter, as over an axis of ranks: operands that lack the letter are whole, results that
lack it are addends, or means where the call divides by a number of rows. A call without rows computes on what is whole, passes
addends through where it is linear in them, and means as well where a number is added. What would need messages over an axis of
ranks (the statistics of a batch norm) cannot be done over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.ir.graph import Ref
from autopar.ir.layout import Layout, Partial, Replicate, Shard
from autopar.ops.record.rule import Choice, floating, split_choice
from autopar.partitioner.microbatches.batch_letter import BatchLetter, CallPair, RowNumber, batch_letter, counted
from autopar.partitioner.microbatches.row_numbers import counts_rows, picked_rows
from autopar.partitioner.microbatches.time_layouts import (
    ADDEND,
    MEAN,
    WHOLE,
    Mean,
    RowNumbers,
    Stuck,
    TimeLayout,
    Unsummed,
)

_SHIFTS = ("add", "sub", "rsub")
_QUOTIENTS = ("div", "true_divide")
_VIEWS = ("unsqueeze", "view", "reshape", "expand", "squeeze", "alias", "detach", "clone")
_LENDING = ("new_zeros", "new_ones", "new_full", "new_empty")  # of their operand the dtype alone


@dataclass(frozen=True, slots=True)
class InTime:
    """Layouts of a call's results; operands that are multiplied by the share before; whether the results are."""

    results: tuple[TimeLayout, ...]
    shared: frozenset[int] = frozenset()
    scaled: bool = False


def in_time(pair: CallPair, layouts: Sequence[TimeLayout]) -> InTime:
    """A call whose operands lie so. Raises Stuck, and Unsummed where it is for operands that are no whole tensors."""
    if counts_rows(pair):
        return InTime((RowNumbers(0),))
    if any(isinstance(layout, RowNumbers) for layout in layouts):
        return InTime(_with_row_numbers(pair, layouts))
    if pair.here.call.function in _LENDING and pair.here.call.operands[0].shape != pair.here.call.results[0].shape:
        layouts = [WHOLE for _ in layouts]
    letter = batch_letter(pair, layouts)
    if letter is None:
        return _without_rows(pair, layouts)
    choice = _split(pair, letter)
    number = None if _adds_integers(pair, letter) else counted(pair, letter)
    shared = _operands(pair, choice, layouts)
    results = tuple(map(_over_time, choice.results))
    if number is None:
        return InTime(results, shared)
    if number.argument:
        return _divided(pair, number, InTime(results, shared))
    if not number.before.endswith("/"):
        raise Stuck("a number in it changes with the number of rows")
    return InTime(tuple(MEAN if isinstance(one, Partial) else one for one in results), shared)


def _with_row_numbers(pair: CallPair, layouts: Sequence[TimeLayout]) -> tuple[TimeLayout, ...]:
    """What the numbers of rows become in views, and what is picked from rows by them. Raises Stuck for anything else."""
    if pair.here.call.function in _VIEWS and len(layouts) == 1 and isinstance(layouts[0], RowNumbers):
        (shard,) = in_time(pair, [Shard(layouts[0].dim)]).results
        if isinstance(shard, Shard) and (shard.blocks, shard.unit) == (1, 1):
            return (RowNumbers(shard.dim),)
    return (picked_rows(pair, layouts),)


def _over_time(layout: Layout) -> TimeLayout:
    return layout if isinstance(layout, Shard | Partial) else WHOLE


def _split(pair: CallPair, letter: BatchLetter) -> Choice:
    """What splitting the batch letter does. Raises Stuck where that takes more than each micro-batch has."""
    item = pair.here
    rule, name = item.rule, letter.name
    if _adds_integers(pair, letter):
        operands = tuple(Shard(0) if dims else Replicate() for dims in rule.operands)  # only what is summed has rows
        return Choice("split", operands, tuple(Partial() for _ in rule.results), name)
    inner = item.op.inner(item.call, rule, name) if item.op.inner is not None else ()
    if inner and "norm" in item.node.target:
        raise Stuck("it needs statistics of the whole batch")
    if name in rule.frozen or name in rule.windows or inner:
        raise Stuck("it needs all rows of the batch at once")
    choice = split_choice(rule, item.call, name, letter.blocks, letter.unit)
    if choice is None:
        raise Stuck("it needs all rows of the batch at once")
    return choice


def _adds_integers(pair: CallPair, letter: BatchLetter) -> bool:
    """Whether the call is a sum of whole numbers over the batch, which other records leave to a sum inside."""
    item = pair.here
    sums = item.call.function in ("sum", "count_nonzero") and letter.name in item.rule.whole
    return sums and not any(floating(value) for value in item.call.results)


def _operands(pair: CallPair, choice: Choice, layouts: Sequence[TimeLayout]) -> frozenset[int]:
    """The operands that are to be multiplied by the share. Raises Stuck, Unsummed."""
    shared, unsummed = [], []
    for i, (wanted, layout) in enumerate(zip(choice.operands, layouts, strict=True)):
        if isinstance(wanted, Shard) != isinstance(layout, Shard):
            raise Stuck("one of its operands has rows that are not the batch's")
        if isinstance(wanted, Partial):
            shared += [] if isinstance(layout, Partial) else [i]
        elif isinstance(layout, Partial | Mean):
            unsummed.append(i)
    if unsummed:
        raise Unsummed(tuple(unsummed), "it computes rows of the batch from a number of the whole batch")
    return frozenset(shared)


def _without_rows(pair: CallPair, layouts: Sequence[TimeLayout]) -> InTime:
    item, number = pair.here, counted(pair, None)
    pending = tuple(i for i, layout in enumerate(layouts) if isinstance(layout, Partial | Mean))
    if not pending:
        if item.rule.joined and any(value.differentiable for value in item.call.operands):
            raise Stuck("its backward need not be linear, so it cannot be taken in addends")
        plain = InTime((WHOLE,) * len(item.call.results))
    else:
        plain = _passed(pair, layouts, pending)
    if number is None:
        return plain
    if not number.argument:
        raise Stuck("a number in it changes with the number of rows")
    return _divided(pair, number, plain)


def _passed(pair: CallPair, layouts: Sequence[TimeLayout], pending: tuple[int, ...]) -> InTime:
    """Addends or means pass through a call that is linear in them."""
    rule, results = pair.here.rule, pair.here.call.results
    means = all(isinstance(layouts[i], Mean) for i in pending)
    if means and _shifts(pair):
        return InTime((MEAN,))
    group = next((group for group in rule.linear if group.issuperset(pending)), None)
    if group is None:
        raise Unsummed(pending, "it is not linear in a number of the whole batch")
    if means:
        return InTime((MEAN,) * len(results))
    return InTime((ADDEND,) * len(results), frozenset(i for i in group if not isinstance(layouts[i], Partial)))


def _shifts(pair: CallPair) -> bool:
    """Whether the call adds a number, or whole tensors, to a tensor."""
    args = pair.here.node.args[:2]
    return pair.here.call.function in _SHIFTS and not all(isinstance(one, Ref) for one in args)


def _divided(pair: CallPair, number: RowNumber, plain: InTime) -> InTime:
    """A call with an argument that counts rows: a sum divided by it is a mean, and a mean times it a sum.

    Where other tensors are divided by the rows of the micro-batch, their share makes it those of the whole batch.
    """
    name, args = pair.here.call.function, pair.here.node.args
    results = set(plain.results)
    if isinstance(args[0], Ref) and number.before.endswith("/") and name in _QUOTIENTS and not plain.shared:
        return InTime((MEAN,)) if results == {ADDEND} else InTime(plain.results, scaled=True)
    if name == "mul" and results == {MEAN}:
        return InTime((ADDEND,))
    raise Stuck("it computes with the number of rows, of which a micro-batch has fewer")
