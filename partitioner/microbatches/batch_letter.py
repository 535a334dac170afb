"""The letter of a call that is the batch, and what the call's text says of the number of rows.

The same call is looked at in two graphs, with different numbers of rows. Where its operands have no rows, the batch is the letter
of the results whose extent differs. Its text is printed for both, with that letter cut over an axis: extents become local ones; a
number that still differs is a count of rows, which the call computes with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autopar.ir.graph import Argument
from autopar.ir.layout import Shard
from autopar.ops.annotated import AnnotatedCall
from autopar.ops.record.emit_context import Local, emit_context
from autopar.ops.record.printing import Expr
from autopar.partitioner.microbatches.time_layouts import Stuck, TimeLayout

_AXIS = "TIME"
_LOCAL = re.compile(rf"{_AXIS}\.part\(\d+\)")
_PLACE = re.compile(rf"\({_AXIS}, \d+(?:, \d+, \d+)?\)")  # where random numbers stand
_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])")


@dataclass(frozen=True, slots=True)
class BatchLetter:
    """The letter that is the batch, its extent read as ``blocks x rows x unit``."""

    name: str
    blocks: int
    unit: int


@dataclass(frozen=True, slots=True)
class CallPair:
    """One call in two graphs of the same model, with `rows` and with `other` rows."""

    here: AnnotatedCall
    there: AnnotatedCall
    rows: int
    other: int

    def proportional(self, one: float, two: float) -> bool:
        """Whether a number is so many times the rows in both."""
        return one * self.other == two * self.rows


def batch_letter(pair: CallPair, layouts: Sequence[TimeLayout]) -> BatchLetter | None:
    """The letter; None where neither operands nor results have rows. Raises Stuck where rows do not pass through the call."""
    rule = pair.here.rule
    sharded = [(i, layout) for i, layout in enumerate(layouts) if isinstance(layout, Shard)]
    found = {_of_dim(pair, rule.operands[i], layout) for i, layout in sharded}
    if None in found:
        if not pair.here.ruled:
            raise Stuck("autopar knows no letters of this operator, so it needs the whole batch")
        raise Stuck("it mixes the rows of the batch")
    if len(found) > 1:
        raise Stuck("it lets every row of the batch meet every other")
    return next(iter(found), None) or _of_results(pair)


def _of_dim(pair: CallPair, dims: Sequence[tuple[str, ...]], shard: Shard) -> BatchLetter | None:
    """The letter of an operand's dim that is cut so."""
    extents = pair.here.rule.extents
    names = dims[shard.dim] if shard.dim < len(dims) else ()
    for at, name in enumerate(names):
        before = math.prod(extents[other] for other in names[:at])
        after = math.prod(extents[other] for other in names[at + 1 :])
        if before and after and not (shard.blocks % before or shard.unit % after):
            letter = BatchLetter(name, shard.blocks // before, shard.unit // after)
            if extents[name] == letter.blocks * letter.unit * pair.rows:
                return letter
    return None


def _of_results(pair: CallPair) -> BatchLetter | None:
    """The letter of the results that grows with the rows."""
    one, two = pair.here.rule, pair.there.rule
    names = dict.fromkeys(name for dims in one.results for dim in dims for name in dim)
    grown = [name for name in names if one.extents[name] != two.extents.get(name)]
    if not grown:
        shapes = zip(pair.here.call.results, pair.there.call.results, strict=True)
        if any(a.shape != b.shape for a, b in shapes):
            raise Stuck("its result follows the number of rows in a way of its own")
        return None
    name = grown[0]
    if len(grown) > 1 or not pair.proportional(one.extents[name], two.extents[name]):
        raise Stuck("its result follows the number of rows in a way of its own")
    if one.extents[name] % pair.rows:
        raise Stuck("its result follows the number of rows in a way of its own")
    return BatchLetter(name, 1, one.extents[name] // pair.rows)


@dataclass(frozen=True, slots=True)
class RowNumber:
    """The one number in a call's text that counts rows: what stands before it, and whether it is an argument of the call."""

    before: str
    argument: bool


def counted(pair: CallPair, letter: BatchLetter | None) -> RowNumber | None:
    """The number of rows that a call computes with, None where there is none. Raises Stuck where it is no multiple of the rows."""
    if letter is not None and letter.name not in pair.there.rule.extents:
        raise Stuck("with another number of rows, it has other letters")
    one, two = _text(pair.here, letter), _text(pair.there, letter)
    if _AXIS in one and not (pair.here.op.random or "dropout_p" in one):
        raise Stuck("it has to know which rows of the batch it computes")
    mine, theirs = (_NUMBER.split(_PLACE.sub("_", text)) for text in (one, two))
    if mine[::2] != theirs[::2]:
        raise Stuck("a number in it changes with the number of rows")
    differ = [i for i in range(1, len(mine), 2) if mine[i] != theirs[i]]
    if not differ:
        return None
    if len(differ) > 1 or not pair.proportional(float(mine[differ[0]]), float(theirs[differ[0]])):
        raise Stuck("a number in it changes with the number of rows")
    return RowNumber(mine[differ[0] - 1].rstrip(), _differs(pair.here.node.args, pair.there.node.args))


def _differs(one: Argument, two: Argument) -> bool:
    """Whether a number among the arguments, which is not one of several extents, differs."""
    if isinstance(one, tuple) and isinstance(two, tuple):
        return any(_differs(a, b) for a, b in zip(one, two, strict=True))
    return one != two


def _text(item: AnnotatedCall, letter: BatchLetter | None) -> str:
    """The call's text with the letter cut over an axis of time, and local extents without their numbers."""
    extents = {name: str(extent) for name, extent in item.rule.extents.items()}
    local = Local(extent=extents)
    if letter is not None:
        extent, around = item.rule.extents[letter.name], letter.blocks * letter.unit
        extents[letter.name] = f"{_AXIS}.part({extent // around})" + (f" * {around}" if around != 1 else "")
        local = Local({letter.name: (_AXIS,)}, extents, {letter.name: ((_AXIS, letter.blocks, letter.unit),)})
    names = [Expr(f"x{i}") for i, _ in enumerate(item.call.operands)]
    return _LOCAL.sub("_", item.op.emit(emit_context(item.call, item.rule, local, names)))
