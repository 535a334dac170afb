"""What is tried instead of a call: the same operator on small made-up shapes, with literals that are sizes made up too.

A `Form` is everything about a call that its letters may depend on. Dims of equal extent stay equal, dims of extent 1
stay 1, and the order of different extents is kept. An integer argument is *tied* when it equals an extent: it is then
taken for that size, and made up with it. Any other integer is *free*: it keeps its value v, and every made-up extent m
of a dim of extent n stands to v as n does, in ``m < v``, ``m == v``, ``m > v`` and in whether v divides it. (A slice of
the first 16 rows must not be tried on 5 rows only, where it does nothing.)

Operators ask more of their extents than can be known, so there are several ways of making them up, the freest first:

    distinct   ascending numbers without a common pattern
    products   the same, but an extent that is the product of two others stays that
    ratios     the same, but an extent that is a multiple of another stays a multiple
    real       the extents as they are, where the tensors are small enough
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopar.ir.graph import Argument, Ref
from autopar.ops.record.overloads import overload_of
from autopar.ops.record.rule import Call

Place = int | str | tuple[int | str, int]  # of a literal: its position, its keyword, or one of these and an index
Extents = Mapping[int, int]  # made-up extent by real one

MOST_ELEMENTS = 2**18
_REAL_ELEMENTS = 2**12
_LONG = 256  # rows in the last trial of a letter
_MODES = ("distinct", "products", "ratios", "real")
_DIM_NAMES = frozenset({"dim", "dims", "dim0", "dim1", "axis", "axes", "start_dim", "end_dim", "diagonal"})
_STARTS = (5, 6, 4)  # the smallest extent of each variant of a mode; one less where tensors have many dims


@dataclass(frozen=True, slots=True)
class ShapedOperand:
    """A tensor argument: its real shape, its dtype (``"float"`` for any real floating one), whether a gradient flows."""

    shape: tuple[int, ...]
    kind: str
    flows: bool

    @property
    def floating(self) -> bool:
        """Whether it holds real or complex numbers."""
        return self.kind in ("float", "complex")


@dataclass(frozen=True, slots=True)
class Form:
    """A call without names: in `args` and `kwargs` every tensor is a `Ref` to its place among the operands."""

    target: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    operands: tuple[ShapedOperand, ...]
    results: tuple[tuple[int, ...] | None, ...]  # shapes; None for a result that nobody reads


@dataclass(frozen=True, slots=True)
class StandIn:
    """One set of made-up shapes and sizes, in place of a call's."""

    shapes: tuple[tuple[int, ...], ...]
    extents: tuple[tuple[int, int], ...]  # (real, made-up)
    sizes: tuple[tuple[Place, int], ...]  # tied literals


def form_of(call: Call) -> Form:
    """The call's form."""
    places = iter(range(len(call.operands)))

    def plain(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(str(next(places)))
        return tuple(map(plain, argument)) if isinstance(argument, tuple) else argument

    args = tuple(plain(argument) for argument in call.node.args)
    kwargs = tuple((name, plain(value)) for name, value in call.node.kwargs)
    operands = tuple(ShapedOperand(value.shape, _kind(value.dtype), value.differentiable) for value in call.operands)
    results = tuple(value.shape if value.name else None for value in call.results)
    return Form(call.node.target, args, kwargs, operands, results)


def _kind(dtype: str) -> str:
    return "float" if dtype.startswith(("float", "bfloat")) else "complex" if dtype.startswith("complex") else dtype


def literals(args: Sequence[Argument], kwargs: Sequence[tuple[str, Argument]]) -> Iterator[tuple[Place, Argument]]:
    """Every argument that is no tensor, with its place; the items of a tuple one by one."""
    arguments: list[tuple[int | str, Argument]] = [*enumerate(args), *kwargs]
    for at, value in arguments:
        if not isinstance(value, tuple):
            if not isinstance(value, Ref):
                yield at, value
            continue
        yield from (((at, i), item) for i, item in enumerate(value) if not isinstance(item, Ref | tuple))


def replaced(value: Argument, at: Place, sizes: Mapping[Place, Any]) -> Argument:
    """An argument with the literals at these places exchanged."""
    if isinstance(value, tuple) and not isinstance(at, tuple):
        return tuple(sizes.get((at, i), item) for i, item in enumerate(value))
    return sizes.get(at, value)


def ties(form: Form) -> list[frozenset[Place]]:
    """Which literals may be sizes: hypotheses in the order in which to try them, the last one that none is."""
    extents = _classes(form)
    able = [place for place, v in _integers(form) if v in extents]
    few = itertools.chain.from_iterable(itertools.combinations(able, n) for n in range(len(able) - 1, 0, -1))
    some = [frozenset(places) for places in itertools.islice(few, 6)]
    return list(dict.fromkeys([frozenset(able), *some, frozenset()]))


def made_up(form: Form, tied: frozenset[Place]) -> Iterator[tuple[StandIn, ...]]:
    """Per mode that is possible the variants of shapes to try, the freest mode first."""
    seen = set()
    for mode in _MODES:
        many = max(len(operand.shape) for operand in form.operands) > 4
        starts = [start - many for start in (_STARTS[:1] if mode == "real" else _STARTS)]
        variants = [_variant(form, tied, mode, start) for start in starts]
        kept = tuple(dict.fromkeys(variant for variant in variants if variant is not None))
        if kept and kept not in seen:
            seen.add(kept)
            yield kept


def lengthened(form: Form, variant: StandIn, extent: int, tied: frozenset[Place]) -> StandIn | None:
    """The same with many rows in the dims of one real extent, for constants that an operator keeps to itself: about 256,
    or the power of two that the call's own rows reach. None where that is no longer, too much, or breaks a relation.
    """
    free = _free(form, tied)
    others = {m for n, m in variant.extents if n != extent}
    most = min(_LONG, 2 ** (extent.bit_length() - 1))
    longer = next((m for m in range(most, 1, -1) if m not in others and _alike(m, extent, free)), 0)
    extents = {**dict(variant.extents), extent: longer}
    return _with(form, extents, tied) if longer > dict(variant.extents)[extent] else None


def experiment(form: Form) -> str:
    """All that the trials of a form depend on: what is made up, not what it is made up for. Forms that differ in the size
    of a batch share it.
    """
    parts: list[object] = [form.args, form.kwargs] if not _integers(form) else []
    for tied in ties(form):
        sizes = {place: "size" for place in tied}
        args = [replaced(value, at, sizes) for at, value in enumerate(form.args)]
        named = [(name, replaced(value, name, sizes)) for name, value in form.kwargs]
        every = list(made_up(form, tied))
        longer = [lengthened(form, every[0][0], n, tied) for n, _ in every[0][0].extents] if every else []
        tried = [[(variant.shapes, variant.sizes) for variant in variants] for variants in every]
        parts += [args, named, tried, [variant and variant.shapes for variant in longer]]
    kinds = [(len(operand.shape), operand.kind, operand.flows) for operand in form.operands]
    return repr((form.target, parts, kinds, [shape is None for shape in form.results]))


def _variant(form: Form, tied: frozenset[Place], mode: str, start: int) -> StandIn | None:
    classes, free = sorted(_classes(form)), _free(form, tied)
    if mode == "real":
        small = all(math.prod(operand.shape) <= _REAL_ELEMENTS for operand in form.operands)
        return _with(form, {n: n for n in classes}, tied) if small else None
    if max(free, default=0) > MOST_ELEMENTS:
        return None
    extents = _ascending(classes, free, start, mode)
    return None if extents is None else _with(form, extents, tied)


def _with(form: Form, extents: dict[int, int], tied: frozenset[Place]) -> StandIn | None:
    shapes = tuple(tuple(extents.get(n, 1) for n in operand.shape) for operand in form.operands)
    if max(map(math.prod, shapes)) > MOST_ELEMENTS:
        return None
    sizes = tuple((place, extents[v]) for place, v in _integers(form) if place in tied)
    return StandIn(shapes, tuple(sorted(extents.items())), sizes)


def _ascending(classes: Sequence[int], free: Sequence[int], start: int, mode: str) -> dict[int, int] | None:
    """A made-up extent per real one, in the same order."""
    extents: dict[int, int] = {}
    for i, n in enumerate(classes):
        low = max(extents.values(), default=1) + 1
        high = min((k - j for j, k in enumerate(classes[i:]) if j and k in free), default=max([low, *free]) * 3 + start)
        wish = _related(n, extents, mode) or max(low, start if i == 0 else low + start % 2)
        able = [n] if n in free else [*range(max(low, wish), high + 1), *range(low, min(wish, high + 1))]
        fit = next((m for m in able if low <= m <= MOST_ELEMENTS and _alike(m, n, free)), None)
        if fit is None:
            return None
        extents[n] = fit
    return extents


def _related(n: int, extents: Mapping[int, int], mode: str) -> int:
    """The made-up extent that keeps what n is to smaller extents, or 0."""
    known = sorted(extents, reverse=True)
    if mode == "products":
        pairs = itertools.combinations_with_replacement(known, 2)
        return next((extents[a] * extents[b] for a, b in pairs if a * b == n), 0)
    if mode == "ratios":
        return next((extents[a] * min(n // a, 2 + n // a % 2) for a in known if n % a == 0), 0)
    return 0


def _alike(m: int, n: int, free: Sequence[int]) -> bool:
    """Whether m stands to the free integers as n does."""
    return all((m > v) - (m < v) == (n > v) - (n < v) and (n < v or (m % v == 0) == (n % v == 0)) for v in free)


def _classes(form: Form) -> set[int]:
    """The extents above 1 of all operands."""
    return {n for operand in form.operands for n in operand.shape if n > 1}


def _integers(form: Form) -> list[tuple[Place, int]]:
    """Literals that may be sizes or numbers of elements: integers above 1 that the schema calls neither dims nor numbers."""
    schema = overload_of(form.target)._schema
    types = {argument.name: str(argument.type) for argument in schema.arguments}
    names: dict[int | str, str] = {**dict(enumerate(types)), **{name: name for name in types}}
    integers = []
    for place, value in literals(form.args, form.kwargs):
        name = names.get(place[0] if isinstance(place, tuple) else place, "")
        counted = "int" in types.get(name, "int").lower() and name not in _DIM_NAMES
        if counted and isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1:
            integers.append((place, value))
    return integers


def _free(form: Form, tied: frozenset[Place]) -> list[int]:
    return sorted({abs(v) for place, v in _integers(form) if place not in tied})


def numbers(form: Form) -> list[float]:
    """Literals that values may be compared with: the scales at which the operator is tried, at most four."""
    values = [value for _, value in literals(form.args, form.kwargs) if not isinstance(value, bool)]
    scales = {abs(float(v)) for v in values if isinstance(v, int | float) and math.isfinite(v) and abs(v) not in (0, 1)}
    return sorted(scales, reverse=True)[:4]


def index_bound(form: Form, variant: StandIn) -> int:
    """What made-up integers lie below: no more than any extent, or any literal that may be a number of classes."""
    sizes = [v for _, v in literals(form.args, form.kwargs) if isinstance(v, int) and not isinstance(v, bool) and v > 1]
    return min([*(m for _, m in variant.extents), *sizes], default=5)
