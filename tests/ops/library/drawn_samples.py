"""New samples from a record's own ones: extents of letters, numbers of dims and literals drawn, as long as torch accepts.

Any call that torch accepts is one that a user's model may hold, and the record has to be right for it or refuse it.
So nothing here has to know an operator. A letter's extent is changed in all tensors that carry it, the frozen letters
included. Literals that named sizes are renamed with it where the plain call is refused: a tuple that was the shape of
a result or the last dims of an operand (``reshape``, ``layer_norm``), or a number that was the letter's extent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st

from autopar.ops.record.op import Op, Sample, T
from autopar.ops.record.rule import Dims, Rule
from autopar.proof.reference import REFUSED, Whole, whole_of

EXTENTS = (5, 3, 2, 7, 4, 1, 6, 8)
# What the function of torch.nn.functional says to a call that its ATen operator accepts: no model can hold it.
NEVER_CALLED = (
    "Padding_idx must be within num_embeddings",
    "Expected more than 1 spatial element when training",
    "Expected more than 1 value per channel when training",
)

# Records whose operators crash or read anything on shapes that do not fit: only letters that may be split change.
UNCHECKED = ("recurrent", "weight_norm")


@dataclass(frozen=True)
class Accepted:
    """A sample that torch accepts, run whole, and its letters."""

    sample: Sample
    whole: Whole
    rule: Rule


def accepted(op: Op, sample: Sample) -> Accepted | None:
    """None where torch or the record refuses the call, or its numbers are not finite."""
    try:
        whole = whole_of(op, sample)
    except REFUSED:
        return None
    numbers = [*whole.results, *(one for one in whole.gradients if one is not None)]
    if not all(torch.isfinite(one).all() for one in numbers) or not any(one.numel() for one in whole.results):
        return None
    try:
        return Accepted(sample, whole, op.rule(whole.call))
    except ValueError:  # the record refuses the call: it runs whole
        return None


@st.composite
def drawn(draw: st.DrawFn, op: Op) -> Accepted | None:
    """One of the record's samples with some of its letters' extents, perhaps a dim and perhaps a literal changed."""
    found = accepted(op, draw(st.sampled_from(op.samples)))
    if found is None:
        return None
    unchecked = op.name in UNCHECKED
    for letter in found.rule.letters if unchecked else tuple(found.rule.extents):
        if letter not in found.rule.extents or draw(st.integers(0, 3)) == 3:
            continue
        n = draw(st.sampled_from(EXTENTS))
        found = _first(op, itertools.islice(with_extent(found, letter, n), 1 if unchecked else None)) or found
    change = draw(st.sampled_from((None, None, with_constant, in_float32)))
    if change is not None:
        found = _first(op, [change(found.sample, draw(st.integers(0, 3)))]) or found
    if unchecked:
        return found
    if draw(st.booleans()):
        found = _first(op, [with_dim_in_front(found, draw(st.sampled_from((3, 1, 2))))]) or found
    if draw(st.booleans()):
        found = (
            _first(op, [with_literal(found.sample, draw(st.integers(0, 7)), draw(st.sampled_from((1, -1))))]) or found
        )
    return found


def _first(op: Op, samples: Iterable[Sample]) -> Accepted | None:
    return next((one for one in (accepted(op, sample) for sample in samples) if one is not None), None)


def with_extent(found: Accepted, letter: str, n: int) -> Iterator[Sample]:
    """The sample with another extent of a letter: literals as they are, then renamed in the ways that make sense."""
    rule, old = found.rule, found.rule.extents[letter]
    if n == old:
        return
    renamed = {**rule.extents, letter: n}

    def shape(dims: Dims, before: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(_extent(names, extent, rule, renamed, letter) for names, extent in zip(dims, before, strict=True))

    operands = [value.shape for value in found.whole.call.operands]
    results = [value.shape for value in found.whole.call.results if value.name]
    after = [shape(dims, before) for dims, before in zip(rule.operands, operands, strict=True)]
    turned = [shape(dims, one) for dims, one in zip(rule.results, results, strict=False) if len(dims) == len(one)]
    sizes = dict(zip(results, turned, strict=False))
    for before, now in zip(operands, after, strict=True):
        sizes |= {before[i:]: now[i:] for i in range(len(before)) if before[i:] not in sizes}
    tensors = iter(after)
    resized = _over_tensors(found.sample, lambda tensor: replace(tensor, shape=next(tensors)))
    for bounds in (lambda tensor: _with_bound(tensor, old, n), lambda tensor: tensor):
        same = _over_tensors(resized, bounds)
        if same != found.sample:  # it is where there are no tensors
            yield same
        yield _over_literals(same, lambda value: sizes.get(value, value) if isinstance(value, tuple) else value)
        yield _over_literals(same, lambda value: n if type(value) is int and value == old else value)


def _extent(names: tuple[str, ...], before: int, rule: Rule, renamed: dict[str, int], letter: str) -> int:
    """A dim's new extent; a windowed one grows by as much as its letter does."""
    if letter not in names:
        return before
    if before == math.prod(rule.extents[name] for name in names):
        return math.prod(renamed[name] for name in names)
    return max(1, before + renamed[letter] - rule.extents[letter])


def _with_bound(tensor: T, old: int, n: int) -> T:
    kind, _, bound = tensor.kind.rpartition(" ")
    return replace(tensor, kind=f"{kind} {n}") if bound == str(old) and "probabilities" not in kind else tensor


def with_dim_in_front(found: Accepted, n: int) -> Sample:
    """One more dim before the others in all operands that begin with the letter that a result begins with."""
    first = [dims[0] for dims in found.rule.results if dims]
    grown = iter([bool(first) and bool(dims) and dims[0] == first[0] for dims in found.rule.operands])
    return _over_tensors(found.sample, lambda one: replace(one, shape=(n, *one.shape)) if next(grown) else one)


def with_constant(sample: Sample, place: int) -> Sample:
    """The sample with one of its tensors frozen: no gradient flows to it."""
    places = itertools.count()

    def change(tensor: T) -> T:
        here = next(places) == place and tensor.kind == "normal"
        return replace(tensor, kind="constant") if here else tensor

    return _over_tensors(sample, change)


def in_float32(sample: Sample, place: int) -> Sample:
    """The sample in float32: results and gradients keep the dtype, whatever a distributed form computes in."""
    real = ("normal", "constant", "unit", "positive", "probabilities")

    def change(tensor: T) -> T:
        return replace(tensor, kind=f"float32 {tensor.kind}") if tensor.kind.split()[0] in real else tensor

    return _over_tensors(sample, change)


def with_literal(sample: Sample, place: int, step: int) -> Sample:
    """The sample with one of its numbers changed by a step, or one of its booleans turned round."""
    numbers = [0]

    def change(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(change, value))
        if type(value) not in (int, bool):
            return value
        numbers[0] += 1
        if numbers[0] - 1 != place:
            return value
        return not value if isinstance(value, bool) else value + step

    return _mapped(sample, change)


def _over_tensors(sample: Sample, change: Callable[[T], T]) -> Sample:
    def of(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(of, value))
        return change(value) if isinstance(value, T) else value

    return _mapped(sample, of)


def _over_literals(sample: Sample, change: Callable[[object], object]) -> Sample:
    """`change` sees whole tuples first, then what is in those that it left alone."""

    def of(value: object) -> object:
        now = change(value)
        return tuple(map(of, value)) if isinstance(value, tuple) and now is value else now

    return _mapped(sample, of)


def _mapped(sample: Sample, change: Callable[[object], object]) -> Sample:
    return replace(
        sample,
        args=tuple(map(change, sample.args)),
        kwargs=tuple((name, change(value)) for name, value in sample.kwargs),
    )
