"""Proof of an operator's record by execution: run a sample whole, run it split on simulated ranks, recombine, compare.

For every choice that the rule allows, the operands are laid out as the choice says (a Partial one as random addends),
the emitted expression is evaluated by every rank, and the results are put together by their layouts. Then backward:
every result gets a cotangent laid out by the dual of its layout, and the gradients of the operands are put together
by the duals of theirs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F

from autopar.codegen.extents import Split, local_extent
from autopar.graph import Dtype, Node, Ref, Value
from autopar.layout import Copied, Layout, Layouts, Partial, Replicate, Shard, dual
from autopar.ops.op import Expr, Local, Op, Sample, T
from autopar.ops.rule import Call, Choice, Rule, choices
from autopar.runtime.grid import Axis, Grid
from autopar.runtime.losses import cross_entropy
from autopar.runtime.normalization import batch_norm
from autopar.runtime.primitives.all_sum import all_sum
from autopar.runtime.transport.threads import simulate
from autopar.runtime.windows import avg_pool, conv, conv_transpose, max_pool

TOLERANCE = 1e-12
NAMES = {
    **{"torch": torch, "F": F, "all_sum": all_sum, "batch_norm": batch_norm, "cross_entropy": cross_entropy},
    **{"conv": conv, "conv_transpose": conv_transpose, "max_pool": max_pool, "avg_pool": avg_pool},
}  # what a generated program may use
Cuts = tuple[float, ...] | None


@dataclass(frozen=True)
class Whole:
    """A sample's call and everything that the undivided computation gives."""

    call: Call
    operands: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, ...]
    cotangents: tuple[torch.Tensor | None, ...]
    gradients: tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Job:
    """One thing to try: a choice per axis and the cuts of every axis."""

    strategy: tuple[Choice, ...]
    cuts: tuple[Cuts, ...]


def reference(target: str) -> Callable[..., object]:
    if target == "autopar.affine":
        return lambda x, w, b=None: x @ w if b is None else x @ w + b
    if target == "autopar.batch_norm":
        return _batch_norm
    return reduce(getattr, target.split("."), torch.ops)


def _batch_norm(x, weight, bias, mean, var, momentum, eps):
    new_mean, new_var = mean.clone(), var.clone()
    return F.batch_norm(x, new_mean, new_var, weight, bias, True, momentum, eps), new_mean, new_var


def filled(tensor: T, generator: torch.Generator) -> torch.Tensor:
    kind, _, bound = tensor.kind.partition(" ")
    if kind == "index":
        return torch.randint(int(bound), tensor.shape, generator=generator)
    if kind == "bool":
        return torch.rand(tensor.shape, generator=generator) < 0.6
    uniform = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    if kind == "positive":
        return uniform + 0.5
    if kind == "unit":
        return (0.1 + 0.8 * uniform).requires_grad_()
    normal = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return normal if kind == "constant" else normal.requires_grad_()


def whole_of(op: Op, sample: Sample, read: Callable[[int], bool] = lambda i: True) -> Whole:
    """Run the sample undivided. `read` says which results somebody reads; the others have no name."""
    generator = torch.Generator().manual_seed(7)
    operands: list[torch.Tensor] = []

    def plain(argument):
        if isinstance(argument, T):
            operands.append(filled(argument, generator))
            return Ref(f"x{len(operands) - 1}")
        return tuple(map(plain, argument)) if isinstance(argument, tuple) else argument

    args = tuple(plain(argument) for argument in sample.args)
    kwargs = tuple((name, plain(value)) for name, value in sample.kwargs)
    target = sample.target or op.targets[0]
    values = {f"x{i}": tensor for i, tensor in enumerate(operands)}
    out = reference(target)(*(_given(a, values) for a in args), **{k: _given(v, values) for k, v in kwargs})
    results = (out,) if isinstance(out, torch.Tensor) else tuple(out)
    names = tuple(f"y{i}" if read(i) else "" for i in range(len(results)))
    call = Call(
        Node("call", target, args, kwargs, names),
        tuple(_value(f"x{i}", tensor) for i, tensor in enumerate(operands)),
        tuple(
            _value(name, tensor) if name else Value("", (), "float32", False)
            for name, tensor in zip(names, results, strict=True)
        ),
    )
    flows = [bool(name) and tensor.requires_grad for name, tensor in zip(names, results, strict=True)]
    cotangents = [
        torch.randn(r.shape, generator=generator, dtype=r.dtype) if f else None
        for r, f in zip(results, flows, strict=True)
    ]
    leaves = [tensor for tensor in operands if tensor.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [r for r, f in zip(results, flows, strict=True) if f],
            leaves,
            [c for c in cotangents if c is not None],
            materialize_grads=True,
        )
        if any(flows)
        else [torch.zeros_like(leaf) for leaf in leaves]
    )
    gradients = tuple(next(grads) if tensor.requires_grad else None for tensor in operands)
    detached = tuple(result.detach() for result in results)
    return Whole(call, tuple(t.detach() for t in operands), detached, tuple(cotangents), gradients)


def _given(argument, values: Mapping[str, torch.Tensor]):
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, Dtype):
        return getattr(torch, argument.name)
    return [_given(item, values) for item in argument] if isinstance(argument, tuple) else argument


def _value(name: str, tensor: torch.Tensor) -> Value:
    return Value(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.requires_grad)


def readings(rule: Rule) -> dict[str, list[tuple[int, int]]]:
    """For every letter the plain reading, and one with blocks or units where the extent allows one."""
    found = {}
    for letter in rule.letters:
        n = rule.extents[letter]
        found[letter] = [(1, 1)]
        if n % 8 == 0:
            found[letter].append((2, 2))
        elif n % 4 == 0:
            found[letter].append((2, 1))
        elif n % 6 == 0:
            found[letter].append((1, 2))
    return found


def emitted(op: Op, whole: Whole, rule: Rule, strategy: tuple[Choice, ...], axes: tuple[str, ...]) -> str:
    """The expression for the rank-local call, as codegen asks for it."""
    cuts: dict[str, list[Split]] = {}
    for axis, choice in zip(axes, strategy, strict=True):
        if choice.mode == "split":
            cuts.setdefault(choice.letter, []).append(Split(axis, choice.blocks, choice.unit))
    extents = {letter: local_extent(n, cuts.get(letter, ())) for letter, n in rule.extents.items()}
    local = Local({letter: tuple(one.axis for one in splits) for letter, splits in cuts.items()}, extents)

    def printed(argument):
        if isinstance(argument, Ref):
            return Expr(argument.name)
        return tuple(map(printed, argument)) if isinstance(argument, tuple) else argument

    node = whole.call.node
    args, kwargs = tuple(map(printed, node.args)), {name: printed(value) for name, value in node.kwargs}
    return op.emit(whole.call, rule, local, args, kwargs)


def rows(extent: int, dim: int, layouts: Layouts, axes: tuple[Axis, ...]) -> np.ndarray:
    """Which rows of a dim this rank holds."""
    place = np.arange(extent)
    kept = np.ones(extent, bool)
    taken: dict[tuple[int, int], tuple[int, int]] = {}
    for layout, axis in zip(layouts, axes, strict=True):
        if isinstance(layout, Shard) and layout.dim == dim:
            factor = (layout.blocks, layout.unit)
            low, high = taken.get(factor, (0, extent // (layout.blocks * layout.unit)))
            bounds = axis.bounds(high - low)
            taken[factor] = low + bounds[axis.index], low + bounds[axis.index + 1]
    for (blocks, unit), (low, high) in taken.items():
        at = place // unit % (extent // (blocks * unit))
        kept &= (at >= low) & (at < high)
    return place[kept]


def laid_out(tensor: torch.Tensor, layouts: Layouts, axes: tuple[Axis, ...], seed: int) -> torch.Tensor:
    """This rank's part of a tensor; a Partial one is cut into random addends, drawn alike by every rank."""
    for place, (layout, axis) in enumerate(zip(layouts, axes, strict=True)):
        if isinstance(layout, Partial):
            generator = torch.Generator().manual_seed(seed + 100 * place)
            shape = (axis.size - 1, *tensor.shape)
            addends = torch.randn(shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            tensor = addends[axis.index] if axis.index < axis.size - 1 else tensor - addends.sum(0)
            seed += 10 * axis.index + 1
    for dim, n in enumerate(tensor.shape):
        tensor = tensor.index_select(dim, torch.from_numpy(rows(n, dim, layouts, axes)))
    return tensor.clone()


def spread_out(part: torch.Tensor, shape: torch.Size, layouts: Layouts, axes: tuple[Axis, ...]) -> torch.Tensor:
    """The part in its place in the whole, zeros elsewhere."""
    held = [rows(n, dim, layouts, axes) for dim, n in enumerate(shape)]
    assert part.shape == tuple(map(len, held)), f"a part has shape {tuple(part.shape)}, not {tuple(map(len, held))}"
    whole = torch.zeros(shape, dtype=part.dtype)
    if not shape:
        return part.clone()
    whole[np.ix_(*held)] = part
    return whole


def over_axes(strategy: tuple[Choice, ...], pick: Callable[[Choice], Layout]) -> Layouts:
    return tuple(pick(choice) for choice in strategy)


def run_rank(whole: Whole, job: Job, expression: str, axes: tuple[Axis, ...]) -> tuple[list, list]:
    """What this rank computes, each tensor in its place in the whole: results and gradients."""
    for axis, cuts in zip(axes, job.cuts, strict=True):
        axis.move(cuts)
    names = tuple(axis.name.upper() for axis in axes)
    inputs = []
    for i, tensor in enumerate(whole.operands):
        layouts = over_axes(job.strategy, lambda choice, i=i: choice.operands[i])
        part = laid_out(tensor, layouts, axes, 1000 * (i + 1))
        inputs.append(part.requires_grad_() if whole.gradients[i] is not None else part)
    env = {**NAMES, **dict(zip(names, axes, strict=True))}
    env |= {f"x{i}": tensor for i, tensor in enumerate(inputs)}
    try:
        out = eval(expression, env)
        if whole.call.node.target == "autopar.batch_norm":
            out = (out, inputs[-2], inputs[-1])
        parts = (out,) if isinstance(out, torch.Tensor) else tuple(out)
        assert len(parts) == len(whole.results), f"{len(parts)} results, not {len(whole.results)}"
        results, roots, seeds = [], [], []
        for i, (part, full, cotangent) in enumerate(zip(parts, whole.results, whole.cotangents, strict=True)):
            if not whole.call.results[i].name:
                continue
            layouts = over_axes(job.strategy, lambda choice, i=i: choice.results[i])
            assert part.dtype == full.dtype, f"result {i} is {part.dtype}, not {full.dtype}"
            results.append(spread_out(part.detach(), full.shape, layouts, axes))
            if cotangent is not None and part.requires_grad:
                roots.append(part)
                seeds.append(laid_out(cotangent, tuple(map(dual, layouts)), axes, 5000 * (i + 1)))
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        grads = (
            torch.autograd.grad(roots, leaves, seeds, materialize_grads=True)
            if roots
            else map(torch.zeros_like, leaves)
        )
        found = iter(grads)
        gradients = []
        for i, tensor in enumerate(inputs):
            if tensor.requires_grad:
                layouts = over_axes(job.strategy, lambda choice, i=i: dual(choice.operands[i]))
                gradients.append(spread_out(next(found), whole.operands[i].shape, layouts, axes))
    except Exception as error:
        error.add_note(f"{expression}   {[str(one) for one in job.strategy]} cuts {job.cuts}")
        raise
    return results, gradients


def compare(
    what: str, parts: list[torch.Tensor], layouts: Layouts, shape: tuple[int, ...], expected: torch.Tensor
) -> None:
    """Sum what is in parts or addends, take one of what is whole, having seen that all are equal; compare."""
    grid = torch.stack(parts).reshape(*shape, *expected.shape)
    for axis, layout in reversed(list(enumerate(layouts))):
        if isinstance(layout, Replicate | Copied):
            first = grid.narrow(axis, 0, 1)
            _close(f"{what}: copies differ", grid, first.expand_as(grid))
            grid = grid.select(axis, 0)
        else:
            grid = grid.sum(axis, dtype=grid.dtype) if grid.dtype != torch.bool else grid.any(axis)
    _close(what, grid, expected)


def _close(what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    if not expected.dtype.is_floating_point:
        assert torch.equal(found, expected), what
    elif expected.numel():
        scale = max(1.0, float(expected.abs().max()))
        error = float((found - expected).abs().max()) / scale
        assert error <= TOLERANCE, f"{what}: off by {error:g}"


def prove(op: Op, sample: Sample, read: Callable[[int], bool] = lambda i: True) -> int:
    """Try everything that the rule allows for the sample. Raises AssertionError; returns how much was tried."""
    whole = whole_of(op, sample, read)
    rule = op.rule(whole.call)
    every = choices(rule, whole.call, readings(rule))
    tried = 0
    for spec, sizes in (("data=2", (2,)), ("data=3", (3,)), ("data=2,model=2", (2, 2))):
        jobs = list(_jobs(whole, rule, every, sizes))
        names = ("DATA", "MODEL")[: len(sizes)]
        todo = [(job, emitted(op, whole, rule, job.strategy, names)) for job in jobs]
        tried += len(jobs)

        def rank(spec: str = spec, todo: list[tuple[Job, str]] = todo) -> list:
            axes = Grid(spec).axes
            return [run_rank(whole, job, expression, axes) for job, expression in todo]

        _check(whole, jobs, simulate(math.prod(sizes), rank), sizes)
    return tried


def _check(whole: Whole, jobs: list[Job], ranks: list, sizes: tuple[int, ...]) -> None:
    read = [i for i, value in enumerate(whole.call.results) if value.name]
    flowing = [i for i, gradient in enumerate(whole.gradients) if gradient is not None]
    for at, job in enumerate(jobs):
        where = f"{whole.call.node.target} {[str(one) for one in job.strategy]} cuts {job.cuts}"
        for place, i in enumerate(read):
            layouts = over_axes(job.strategy, lambda choice, i=i: choice.results[i])
            parts = [rank[at][0][place] for rank in ranks]
            compare(f"{where}: result {i} as {[str(one) for one in layouts]}", parts, layouts, sizes, whole.results[i])
        for place, i in enumerate(flowing):
            layouts = over_axes(job.strategy, lambda choice, i=i: dual(choice.operands[i]))
            parts = [rank[at][1][place] for rank in ranks]
            compare(
                f"{where}: gradient {i} as {[str(one) for one in layouts]}", parts, layouts, sizes, whole.gradients[i]
            )


CUTS: dict[int, tuple[Cuts, ...]] = {
    2: (None, (0.0, 0.3, 1.0), (0.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
    3: (None, (0.0, 0.5, 0.5, 1.0)),
}
PAIRED: tuple[tuple[Cuts, Cuts], ...] = ((None, None), ((0.0, 0.3, 1.0), (0.0, 0.7, 1.0)), ((0.0, 0.0, 1.0), None))
MOST_PAIRS = 24


def _jobs(whole: Whole, rule: Rule, every: tuple[Choice, ...], sizes: tuple[int, ...]):
    if len(sizes) == 1:
        for choice in every:
            cuts = CUTS[sizes[0]] if choice.mode == "split" else CUTS[sizes[0]][:1]
            yield from (Job((choice,), (one,)) for one in cuts if _nonempty(rule, (choice,), (one,), sizes))
        return
    pairs = [pair for pair in itertools.product(every, repeat=2) if "split" in (pair[0].mode, pair[1].mode)]
    pairs = [pair for pair in pairs if _compatible(rule, pair) and _nonempty(rule, pair, PAIRED[0], sizes)]
    step = max(1, -(-len(pairs) // MOST_PAIRS))
    for i, pair in enumerate(pairs[::step]):
        cuts = PAIRED[i % len(PAIRED)]
        yield Job(pair, cuts if _nonempty(rule, pair, cuts, sizes) else PAIRED[0])


def _nonempty(rule: Rule, strategy: tuple[Choice, ...], cuts: tuple[Cuts, ...], sizes: tuple[int, ...]) -> bool:
    """Whether no rank is left without rows of a letter that must be filled."""
    left: dict[str, int] = {}
    for choice, cut, size in zip(strategy, cuts, sizes, strict=True):
        if choice.mode == "split" and choice.letter in rule.filled:
            m = left.get(choice.letter, rule.extents[choice.letter] // (choice.blocks * choice.unit))
            bounds = [int(c * m + 0.5) for c in cut] if cut else [m * i // size for i in range(size + 1)]
            left[choice.letter] = min(b - a for a, b in itertools.pairwise(bounds))
    return all(n > 0 for n in left.values())


def _compatible(rule: Rule, pair: tuple[Choice, ...]) -> bool:
    """Whether two choices may be taken together: one axis per windowed letter, and cuts that do not cross."""
    one, other = pair
    if one.mode == other.mode == "split" and one.letter == other.letter:
        if one.letter in rule.windows:
            return False
        n = rule.extents[one.letter]
        same = (one.blocks, one.unit) == (other.blocks, other.unit)
        apart = one.unit % max(1, n // other.blocks) == 0 or other.unit % max(1, n // one.blocks) == 0
        return same or apart
    return True


def mutant(op: Op, change: Callable[[Call, Rule], Rule]) -> Op:
    """The record with another rule."""
    return replace(op, rule=lambda call: change(call, op.rule(call)))
