"""Running an operator on made-up shards: does what the parts give make up what the whole gives?

For a letter that is thought to be dim d_i of operand i (and no dim of others), rows of it are dealt to ranks. Every rank
runs the operator on its rows of the operands that have the letter and on the whole of the others, and

    a result that has the letter    is each rank's rows of the whole result,
    a result that lacks it          is the sum over the ranks,

and backward, from cotangents that are each rank's rows of the whole one, or the whole one of a result that is a sum,

    an operand that has the letter  gets each rank's rows of the whole gradient,
    an operand that lacks it        gets addends of the whole gradient;

a bias, given to the ranks as random addends, gets the whole gradient on every rank. These are the layouts of
`autopar.ops.record.rule.split_choice` and their duals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from autopar.ops.discovery.call_shape import Form, Place, StandIn, numbers, replaced
from autopar.ops.record.overloads import evaluated, overload_of

Tensors = tuple[torch.Tensor, ...]
Rows = tuple[int, ...]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class Unfit(Exception):
    """The operator cannot be tried, or is not what a split needs; says why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter of a form: per operand the dim that has it, -1 for none; per result likewise.

    `literals` are its extent where it is split; `addends` are operands added once to the results that are sums;
    `filled`: every rank must hold a row of it.
    """

    operands: tuple[int, ...]
    results: tuple[int, ...] = ()
    literals: tuple[Place, ...] = ()
    addends: tuple[int, ...] = ()
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """Values to try: ``normal``, ``unit`` (between 0.1 and 0.9), ``ties`` (-1, 0 and 1) or ``special`` (nan and inf among
    them), times `scale`; integers lie below `below`.
    """

    values: str
    scale: float = 1.0
    below: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class UndividedRun:
    """One undivided run: operands, results (None for one that nobody reads), and gradients for drawn cotangents."""

    variant: StandIn
    operands: Tensors
    results: tuple[torch.Tensor | None, ...]
    cotangents: tuple[torch.Tensor | None, ...] = ()
    gradients: tuple[torch.Tensor | None, ...] = ()


def rounds(form: Form, below: int) -> tuple[Round, ...]:
    """Values that an operator could treat differently; the first two are tried backward too, all where backward is the
    user's own: it may clip, or scale, what is large."""
    scales = [1e3, 1e-3, *(2 * number for number in numbers(form))]
    kinds = [("normal", 1.0), ("unit", 1.0), ("ties", 1.0), ("special", 1.0), *(("normal", scale) for scale in scales)]
    return tuple(Round(values, scale, below, seed) for seed, (values, scale) in enumerate(kinds))


def draw(form: Form, variant: StandIn, values: Round, precision: torch.dtype) -> Tensors:
    """Made-up operands, the same whenever they are drawn."""
    generator = torch.Generator().manual_seed(11 + values.seed)
    drawn = []
    for operand, shape in zip(form.operands, variant.shapes, strict=True):
        if operand.kind == "bool":
            drawn.append(torch.rand(shape, generator=generator) < 0.6)
        elif not operand.floating:
            dtype: torch.dtype = getattr(torch, operand.kind)
            drawn.append(torch.randint(values.below, shape, generator=generator).to(dtype))
        else:
            drawn.append(_numbers(shape, values, precision, generator, imaginary=operand.kind == "complex"))
    return tuple(drawn)


def _numbers(
    shape: tuple[int, ...], values: Round, precision: torch.dtype, generator: torch.Generator, *, imaginary: bool
) -> torch.Tensor:
    dtype = precision.to_complex() if imaginary else precision
    if values.values == "unit":
        drawn = 0.1 + 0.8 * torch.rand(shape, generator=generator, dtype=precision)
        return (drawn.to(dtype)) * values.scale
    drawn = torch.randn(shape, generator=generator, dtype=dtype)
    if values.values == "ties":
        return torch.sgn(drawn) if imaginary else drawn.round().clamp(-1, 1)
    if values.values == "special" and drawn.numel():
        flat = drawn.reshape(-1)
        flat[len(flat) // 3], flat[len(flat) // 2] = math.nan, math.inf
    return drawn * values.scale


def run(form: Form, operands: Sequence[torch.Tensor], sizes: dict[Place, int]) -> tuple[torch.Tensor | None, ...]:
    """The operator's results, None for those that nobody reads. Raises what the operator raises, and Unfit."""
    env = {str(i): operand for i, operand in enumerate(operands)}
    args = [evaluated(replaced(value, at, sizes), env) for at, value in enumerate(form.args)]
    kwargs = {name: evaluated(replaced(value, name, sizes), env) for name, value in form.kwargs}
    out = overload_of(form.target)(*args, **kwargs)
    results = (out,) if isinstance(out, torch.Tensor) else tuple(out) if isinstance(out, list | tuple) else ()
    read = tuple(result if shape is not None else None for result, shape in zip(results, form.results, strict=False))
    known = all(result is None or isinstance(result, torch.Tensor) for result in read)
    if len(results) != len(form.results) or not known:
        raise Unfit("its results are not the tensors that the call has")
    return read


def undivided(form: Form, variant: StandIn, values: Round, precision: torch.dtype, *, backward: bool) -> UndividedRun:
    """Run a form whole. Raises what the operator raises."""
    operands = draw(form, variant, values, precision)
    leaves = _leaves(form, operands, backward=backward)
    results = run(form, leaves, dict(variant.sizes))
    generator = torch.Generator().manual_seed(12)
    flows = [backward and result is not None and result.requires_grad for result in results]
    cotangents = tuple(
        torch.randn(result.shape, generator=generator, dtype=result.dtype) * values.scale
        if result is not None and flow
        else None
        for result, flow in zip(results, flows, strict=True)
    )
    gradients = differentiated(results, cotangents, leaves) if backward else ()
    plain = tuple(None if result is None else result.detach() for result in results)
    return UndividedRun(variant, operands, plain, cotangents, gradients)


def _leaves(form: Form, operands: Tensors, *, backward: bool) -> Tensors:
    """The operands as leaves of a graph of their own, those with a gradient asking for one."""
    pairs = zip(form.operands, operands, strict=True)
    return tuple(x.detach().clone().requires_grad_(backward and spec.flows and spec.floating) for spec, x in pairs)


def differentiated(
    results: Sequence[torch.Tensor | None], cotangents: Sequence[torch.Tensor | None], leaves: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of the leaves that ask for one, zeros where nothing flows."""
    pairs = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if result is not None and cotangent is not None and result.requires_grad
    ]
    asking = [leaf for leaf in leaves if leaf.requires_grad]
    if not pairs or not asking:
        return tuple(torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in leaves)
    roots, seeds = zip(*pairs, strict=True)
    gradients = iter(torch.autograd.grad(roots, asking, seeds, materialize_grads=True))
    return tuple(next(gradients) if leaf.requires_grad else None for leaf in leaves)


def part_of(
    form: Form, whole: UndividedRun, letter: Letter, rows: Rows, rank: int, ranks: int
) -> tuple[Tensors, dict[Place, int]]:
    """One rank's operands and sizes."""
    parts = []
    for i, (operand, dim) in enumerate(zip(whole.operands, letter.operands, strict=True)):
        if dim >= 0:
            operand = operand.index_select(dim, _index(rows, 1))
        elif i in letter.addends:
            operand = _addend(operand, rank, ranks)
        parts.append(operand)
    return tuple(parts), {**dict(whole.variant.sizes), **dict.fromkeys(letter.literals, len(rows))}


def _addend(operand: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(13)
    drawn = torch.randn((ranks - 1, *operand.shape), generator=generator, dtype=operand.dtype)
    return drawn[rank] if rank < ranks - 1 else operand - drawn.sum(0)


def agrees(form: Form, whole: UndividedRun, letter: Letter, deal: Sequence[Rows]) -> bool:
    """Whether ranks that hold these rows of the letter make up the whole, and backward where the whole run went back."""
    n = sum(map(len, deal))
    sums = [_Sum() for _ in whole.results]
    gradients = [_Sum() for _ in whole.operands]
    for rank, rows in enumerate(deal):
        parts, sizes = part_of(form, whole, letter, rows, rank, len(deal))
        leaves = _leaves(form, parts, backward=bool(whole.gradients))
        results = run(form, leaves, sizes)
        cotangents: list[torch.Tensor | None] = []
        for i, (result, full, dim) in enumerate(zip(results, whole.results, letter.results, strict=True)):
            cotangent = whole.cotangents[i] if whole.cotangents else None
            cotangents.append(cotangent if dim < 0 or cotangent is None else slices(cotangent, dim, rows, n))
            if result is None or full is None:
                continue
            if dim >= 0 and not same(result, slices(full, dim, rows, n)):
                return False
            if dim < 0:
                sums[i].add(result.detach())
        if whole.gradients and not _returns(whole, letter, leaves, results, cotangents, gradients, rows):
            return False
    pairs = [*zip(sums, whole.results, strict=True), *zip(gradients, whole.gradients, strict=False)]
    return all(total.is_(full) for total, full in pairs)


def _returns(
    whole: UndividedRun,
    letter: Letter,
    leaves: Tensors,
    results: Sequence[torch.Tensor | None],
    cotangents: Sequence[torch.Tensor | None],
    sums: Sequence[_Sum],
    rows: Rows,
) -> bool:
    """Whether a rank's gradients are those of its rows; addends are added to `sums`."""
    for i, gradient in enumerate(differentiated(results, cotangents, leaves)):
        full = whole.gradients[i]
        if gradient is None or full is None:
            continue
        dim = letter.operands[i]
        if dim < 0 and i not in letter.addends:
            sums[i].add(gradient)
        elif not same(gradient, slices(full, dim, rows, full.shape[dim]) if dim >= 0 else full):
            return False
    return True


@dataclass(slots=True)
class _Sum:
    """Addends that several ranks give, and the largest of their elements: what rounding is measured by."""

    total: torch.Tensor | None = None
    largest: float = 0.0

    def add(self, term: torch.Tensor) -> None:
        self.total = term if self.total is None else self.total + term
        finite = term[term.isfinite()].abs()
        self.largest = max(self.largest, float(finite.max()) if finite.numel() else 0.0)

    def is_(self, full: torch.Tensor | None) -> bool:
        """Whether the addends, if there are any, make up this tensor."""
        return self.total is None or full is None or same(self.total, full, self)


def slices(full: torch.Tensor, dim: int, rows: Rows, n: int) -> torch.Tensor:
    """What these of n rows of a letter are in a result whose dim is the letter, or the product of it and an inner one."""
    inner, rest = divmod(full.shape[dim], n)
    if rest:
        raise Unfit("a result's dim is no multiple of the letter")
    return full.index_select(dim, _index(rows, inner))


@lru_cache(maxsize=4096)
def _index(rows: Rows, inner: int) -> torch.Tensor:
    """The places of rows of a letter in a dim that is the product of it and an inner one."""
    return (torch.tensor(rows, dtype=torch.long)[:, None] * inner + torch.arange(inner)).reshape(-1)


def same(actual: torch.Tensor, expected: torch.Tensor, made_of: _Sum | None = None) -> bool:
    """Whether two tensors are equal, floating ones up to rounding; nan is equal to nan.

    Of a sum, rounding is that of its largest addend, and infinite ones may have met in another order, which makes nan.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if not (expected.dtype.is_floating_point or expected.dtype.is_complex):
        return torch.equal(actual, expected)
    real = expected.dtype if not expected.dtype.is_complex else expected.dtype.to_real()
    tolerance = _TOLERANCE.get(real, 2e-2)
    if not expected.numel():
        return True
    off, high = float((actual - expected).abs().max()), float(expected.abs().max())
    if math.isfinite(off) and math.isfinite(high):
        return off <= tolerance * max(made_of.largest if made_of else 0.0, high) + 1e-300
    return torch.equal(actual.isfinite(), expected.isfinite()) and _same_endless(actual, expected, made_of)


def _same_endless(actual: torch.Tensor, expected: torch.Tensor, made_of: _Sum | None) -> bool:
    """The same where some numbers are nan or infinite, and they are so in the same places."""
    finite, endless = expected.isfinite(), expected.isinf()
    alike = torch.equal(actual.isnan(), expected.isnan()) and torch.equal(actual[endless], expected[endless])
    if not alike and made_of is None:
        return False
    return not bool(finite.any()) or same(actual[finite], expected[finite], made_of)
