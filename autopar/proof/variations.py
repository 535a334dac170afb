"""Other calls of an operator, made from the samples of its record: every argument of the schema varied, one at a time.

    variations(op)      the samples that torch takes, with what they give undivided

A bool is turned round, a number changed, a dim is every dim from either end, a word is every word that its argument
may be, an optional argument is given or left out, and a dtype asked for. Where several tensors are read, they are also
broadcast to each other in other ways, with other numbers of dims, under every dim. Nothing here knows an operator: torch
says which of these are calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from autopar.ir.graph import Dtype
from autopar.ops.record.op import Op, Sample, T
from autopar.ops.record.overloads import overload_of
from autopar.proof.reference import REFUSED, Whole, tensors, whole_of

_DIMS = frozenset({"dim", "dim0", "dim1", "dim2", "dims", "start_dim", "end_dim", "axis", "source", "destination"})
_WORDS = {  # arguments that are words, and all that torch knows of each
    "rounding_mode": ("floor", "trunc"), "approximate": ("none", "tanh"), "UPLO": ("L", "U"),
    "indexing": ("ij", "xy"), "padding": ("same", "valid"), "norm": ("backward", "ortho", "forward"),
    "reduce": ("sum", "prod", "mean", "amax", "amin", "add", "multiply"), "ord": (0, 0.5, 1, 2, 3, float("inf"), "fro", "nuc"),
    "interpolation": ("linear", "lower", "higher", "midpoint", "nearest"), "side": ("left", "right"),
    "reduction": (0, 1, 2), "interpolation_mode": (0, 1, 2), "padding_mode": (0, 1, 2), "compute_mode": (0, 1, 2),
    "p": (0.0, 0.3, 1.0, 2.0, 3.0), "dropout_p": (0.0, 0.3), "label_smoothing": (0.0, 0.1, 0.4),
    "mode": ("reduced", "complete", "r", "constant", "reflect", "replicate", "circular"),
}  # fmt: skip
_DTYPES = tuple(map(Dtype, ("float64", "float32", "int64", "complex128", "bool")))
# Of these, torch reads anything where their tensors do not fit.
UNCHECKED = ("attention", "batch_norm_still", "recurrent", "weight_norm")
_IGNORED = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking", "copy", "generator", "out"})


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a target: its name, its type as the schema writes it, and its default if it has one."""

    name: str
    kind: str
    keyword: bool
    optional: bool
    default: object = None


@dataclass(frozen=True, slots=True)
class Varied:
    """A sample that torch takes, and what it gives undivided."""

    sample: Sample
    whole: Whole


def variations(op: Op, most: int = 10**9, chosen: Callable[[Sample], bool] = bool) -> Iterator[Varied]:
    """The record's samples and their variations, as far as torch takes them, each once.

    Only the first `most` samples of every target are varied, and only what is `chosen` is run.
    """
    seen: set[Sample] = set()
    for target in op.targets:
        for base in itertools.islice(samples_for(op, target), most):
            for sample in (base, *varied(op, base)):
                if sample not in seen and chosen(sample):
                    seen.add(sample)
                    whole = taken(op, sample)
                    if whole is not None:
                        yield Varied(sample, whole)


def samples_for(op: Op, target: str) -> Iterator[Sample]:
    """The record's samples of a target; where it has none, the first of another target that this one takes too."""
    own = [replace(sample, target=target) for sample in op.samples if (sample.target or op.targets[0]) == target]
    others = (replace(sample, target=target) for base in op.samples for sample in _with_numbers(base))
    yield from own or itertools.islice((sample for sample in others if taken(op, sample) is not None), 1)


def _with_numbers(sample: Sample) -> Iterator[Sample]:
    """The sample, then with a number in place of one of its tensors or dropped arguments at its end."""
    yield sample
    for number, at in itertools.product((2.5, 2), range(len(sample.args))):
        if isinstance(sample.args[at], T):
            yield replace(sample, args=(*sample.args[:at], number, *sample.args[at + 1 :]))
    for count in range(1, len(sample.args)):
        yield replace(sample, args=sample.args[:count], kwargs=())


def taken(op: Op, sample: Sample) -> Whole | None:
    """What the sample gives undivided; None where torch does not take it, or it gives nothing or no numbers."""
    try:
        whole = whole_of(op, sample)
        numbers = [*whole.results, *(gradient for gradient in whole.gradients if gradient is not None)]
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in numbers)
    except REFUSED:
        return None
    return whole if finite and any(result.numel() for result in whole.results) else None


def arguments(target: str) -> tuple[Argument, ...]:
    """The arguments of a target, in the schema's order; none are known of a target of ours."""
    if target.startswith("autopar."):
        return ()
    return tuple(
        Argument(arg.name, str(arg.type), arg.kwarg_only, arg.has_default_value(), _literal(arg))
        for arg in overload_of(target)._schema.arguments
    )


def _literal(argument: Any) -> object:  # noqa: ANN401
    value = argument.default_value
    return tuple(value) if isinstance(value, list) else value


def varied(op: Op, base: Sample) -> Iterator[Sample]:
    """The sample with every argument changed in every way, one at a time, and with its tensors broadcast."""
    schema = arguments(base.target or op.targets[0])
    values = {arg.name: value for arg, value in zip(schema, base.args, strict=False)} | dict(base.kwargs)
    unchecked = op.name in UNCHECKED
    for arg in schema:
        for value in _values(arg, values):
            if not unchecked or not (isinstance(value, T) or arg.name in _DIMS):
                yield _sample(base, schema, {**values, arg.name: value})
                if isinstance(value, bool) and not unchecked:
                    yield from (_sample(base, schema, {**other, arg.name: value}) for other in _transposed(values))
    if not unchecked:
        yield from _broadcast(base, schema, values)


def _transposed(values: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """With one of the tensors the other way round, or square: what a flag may ask for."""
    for name, value in values.items():
        if isinstance(value, T) and len(value.shape) > 1:
            *front, m, n = value.shape
            for last in dict.fromkeys(((n, m), (m, m), (n, n))):
                yield {**values, name: replace(value, shape=(*front, *last))}


def _sample(base: Sample, schema: tuple[Argument, ...], values: Mapping[str, object]) -> Sample:
    """These arguments as capture writes them: by position up to the last that is given, others by keyword."""
    free = [arg for arg in schema if not arg.keyword]
    last = max((i for i, arg in enumerate(free) if arg.name in values), default=-1)
    args = tuple(values.get(arg.name, arg.default) for arg in free[: last + 1])
    kwargs = {arg.name: values[arg.name] for arg in schema if arg.keyword and values.get(arg.name) is not None}
    return replace(base, args=args, kwargs=tuple(sorted(kwargs.items())))


def _values(arg: Argument, values: Mapping[str, object]) -> Iterator[object]:
    """Other values of an argument."""
    now = values.get(arg.name, arg.default)
    ndim = max((len(tensor.shape) for tensor in tensors(tuple(values.values()))), default=0) + 1
    if arg.name in _IGNORED:
        return
    if arg.optional and arg.name in values:
        yield arg.default
    if arg.kind.startswith("Optional"):
        yield None
    if "Tensor" in arg.kind:
        if now is None:
            yield from _optional_tensors(values)
    elif arg.name == "dtype":
        yield from _DTYPES
    elif arg.name in _DIMS:
        yield from _dims(arg, ndim)
    elif arg.name in _WORDS:
        yield from _WORDS[arg.name]
    else:
        yield from _numbers(arg, now)


def _optional_tensors(values: Mapping[str, object]) -> Iterator[T]:
    """Tensors that may go with those given: of their shapes, their dims alone, without dims."""
    shapes = dict.fromkeys(tensor.shape for tensor in tensors(tuple(values.values())))
    rows = dict.fromkeys((n,) for shape in shapes for n in shape)
    for shape in dict.fromkeys((*shapes, *rows, ())):
        yield T(shape)
        yield T(shape, "positive")


def _dims(arg: Argument, ndim: int) -> Iterator[object]:
    """Every dim from either end; of several, every one alone, all, and pairs in both orders."""
    every = range(-ndim, ndim)
    if "int[" not in arg.kind and "List[int]" not in arg.kind:
        yield from every
        return
    yield ()
    yield from ((dim,) for dim in every)
    yield from itertools.permutations(range(-1, min(ndim, 3)), 2)
    yield from (tuple(range(n)) for n in range(2, ndim + 1))
    yield from (tuple(range(-1, -n - 1, -1)) for n in range(2, ndim + 1))


def _numbers(arg: Argument, now: object) -> Iterator[object]:
    """Other numbers, alone and in place of each in a tuple."""
    if isinstance(now, bool) or arg.kind in ("bool", "Optional[bool]"):
        yield from (False, True)
    elif isinstance(now, tuple):
        for at, item in enumerate(now):
            for value in _numbers(replace(arg, kind=arg.kind.removeprefix("List[").rstrip("]")), item):
                yield (*now[:at], value, *now[at + 1 :])
    elif isinstance(now, int) or (now is None and "int" in arg.kind):
        yield from ((now or 0) + step for step in (1, -1, 2, -2, 3))
    elif isinstance(now, float) or (now is None and ("float" in arg.kind or "number" in arg.kind)):
        yield from ((now or 0.0) * scale + step for scale, step in ((1, 0.25), (0.5, 0.0), (1, -0.75), (0, 2.0)))


def _broadcast(base: Sample, schema: tuple[Argument, ...], values: Mapping[str, object]) -> Iterator[Sample]:
    """Two tensors with fewer dims, or dims of extent one, in one of them, or one more in front; under every dim."""
    names = [name for name, value in values.items() if isinstance(value, T)]
    if len(names) < 2:
        return
    along = [arg for arg in schema if arg.name in _DIMS]
    for name in names[:3]:
        tensor = values[name]
        assert isinstance(tensor, T)
        for shape in _shapes(tensor.shape):
            changed = {**values, name: replace(tensor, shape=shape)}
            yield _sample(base, schema, changed)
            for arg in along:
                for value in _dims(arg, max(len(t.shape) for t in tensors(tuple(changed.values())))):
                    yield _sample(base, schema, {**changed, arg.name: value})


def _shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if shape:
        yield shape[1:]
    yield (1, *shape)
    yield (2, *shape)
    for at in range(len(shape)):
        if shape[at] != 1:
            yield (*shape[:at], 1, *shape[at + 1 :])
