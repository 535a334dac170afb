"""The trial itself: every rank evaluates the emitted expression on its parts, forward and backward; all is compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import CodeType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from autopar import runtime
from autopar.codegen.local_extents import local_of
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, dual
from autopar.ops.record.emit_context import emit_context
from autopar.ops.record.fallback import FALLBACK, whole_rule
from autopar.ops.record.op import Op, Sample
from autopar.ops.record.printing import Expr
from autopar.ops.record.rule import Choice, Rule, choices, muddled_letters
from autopar.proof.cases import Trial, jobs, readings
from autopar.proof.gradients import unasked
from autopar.proof.reference import Whole, every, whole_of
from autopar.proof.shards import compare, laid_out, spread_out, tolerance
from autopar.runtime import Axis, Grid, drawing, simulate

MODES = ("replicate", "copied", "linear", "split")
GRIDS = ("data=2", "data=3", "data=2,model=2")
NAMES: dict[str, Any] = {"torch": torch, "F": F, "p": SimpleNamespace(training=True, share=1.0)} | {
    name: getattr(runtime, name) for name in runtime.__all__
}  # a program may use these


@dataclass(frozen=True, slots=True)
class RankOutcome:
    """What one rank finds: results that somebody reads and gradients by place, each in its place in the whole.

    `entered` are the operands that its backward came to.
    """

    results: dict[int, torch.Tensor]
    gradients: dict[int, torch.Tensor]
    entered: frozenset[int]


def prove_operator(op: Op) -> int:
    """Prove a record on all its samples, as `prove` does each. Raises AssertionError; returns how much was tried."""
    assert op.samples, f"the record of {op.name} brings no samples to prove it on"
    missing = unasked(op)
    assert not missing, f"the record of {op.name} brings no samples with a gradient of {', '.join(missing)}"
    return sum(prove(op, sample) for sample in op.samples)


def prove(
    op: Op,
    sample: Sample,
    read: Callable[[int], bool] = every,
    grids: Sequence[str] = GRIDS,
    some: tuple[int, int] = (0, 1),
    few: bool = False,
) -> int:
    """Try everything that the rule allows for the sample. Raises AssertionError; returns how much was tried.

    `read` says which results somebody reads. With ``some=(i, n)`` only every n-th thing is tried, from the i-th on;
    with `few` every choice, but under fewer cuts, and fewer pairs.
    """
    return prove_whole(op, whole_of(op, sample, read), grids, some, few)


def prove_whole(
    op: Op,
    whole: Whole,
    grids: Sequence[str] = GRIDS,
    some: tuple[int, int] = (0, 1),
    few: bool = False,
    only: Collection[str] = MODES,
) -> int:
    """`prove` for a sample that has run whole, with choices of these modes only."""
    rule = op.rule(whole.call)
    muddled = muddled_letters(rule, whole.call)
    assert not muddled, (
        f"{whole.call.node.target}: splitting {muddled} has gradients summed that are not addends, or not"
    )
    chosen = tuple(choice for choice in choices(rule, whole.call, readings(rule)) if choice.mode in only)
    tried = 0
    for spec in grids:
        sizes = GridShape.parse(spec).sizes
        todo = list(jobs(rule, chosen, sizes, few))[some[0] :: some[1]]
        lines = _lines(op, whole, rule, [job.strategy for job in todo], ("DATA", "MODEL")[: len(sizes)])
        if todo:
            _check(whole, todo, _on_ranks(whole, todo, lines, spec), sizes)
        tried += len(todo)
    return tried


def _lines(
    op: Op, whole: Whole, rule: Rule, strategies: Sequence[tuple[Choice, ...]], axes: tuple[str, ...]
) -> list[str]:
    """The expression for every strategy; the same objects, under other cuts, are emitted once."""
    known: dict[tuple[int, ...], str] = {}
    lines = []
    for strategy in strategies:
        key = tuple(map(id, strategy))
        if key not in known:
            known[key] = emitted(op, whole, rule, strategy, axes)
        lines.append(known[key])
    return lines


def prove_text(op: Op, whole: Whole) -> bool:
    """Evaluate what is printed for the undivided call: the record's text, or the fallback's where the record refuses it.

    Raises AssertionError where that is not the call, forward or backward; returns whether the record covers it.
    """
    rule = rule_or_none(op, whole)
    refused = rule is None or rule.refused
    if refused and op.random:
        return False  # numbers drawn by torch are drawn anew
    alone = Trial((), ())
    line = emitted(
        *((FALLBACK, whole, whole_rule(whole.call)) if rule is None or refused else (op, whole, rule)), (), ()
    )
    _check(whole, [alone], [[run_rank(whole, alone, line, ())]], ())
    return not refused


def rule_or_none(op: Op, whole: Whole) -> Rule | None:
    """The record's rule for the call; None where the record refuses it."""
    try:
        return op.rule(whole.call)
    except ValueError:
        return None


def _on_ranks(whole: Whole, todo: Sequence[Trial], lines: Sequence[str], spec: str) -> list[list[RankOutcome]]:
    """What every rank finds for every job."""

    def rank() -> list[RankOutcome]:
        axes = Grid(spec).axes
        return [run_rank(whole, job, line, axes) for job, line in zip(todo, lines, strict=True)]

    return simulate(GridShape.parse(spec).size, rank)


def _check(whole: Whole, todo: Sequence[Trial], ranks: Sequence[Sequence[RankOutcome]], sizes: tuple[int, ...]) -> None:
    within = tolerance((*whole.operands, *whole.results))
    for at, job in enumerate(todo):
        where = f"{whole.call.node.target} {[str(choice) for choice in job.strategy]} cuts {job.cuts}"
        for i, value in enumerate(whole.call.results):
            if value.name:
                layouts = results_of(job, i)
                what = f"{where}: result {i} as {[str(layout) for layout in layouts]}"
                compare(what, [rank[at].results[i] for rank in ranks], layouts, sizes, whole.results[i], within)
        entered = [rank[at].entered for rank in ranks]
        assert len(set(entered)) == 1, (
            f"{where}: backward goes on to operands {[*map(sorted, entered)]}, and must on all ranks"
        )
        for i, gradient in enumerate(whole.gradients):
            if gradient is not None:
                layouts = tuple(map(dual, operands_of(job, i)))
                what = f"{where}: gradient {i} as {[str(layout) for layout in layouts]}"
                compare(what, [rank[at].gradients[i] for rank in ranks], layouts, sizes, gradient, within)


def operands_of(job: Trial, i: int) -> Layouts:
    """The layouts of operand i over all axes."""
    return tuple(choice.operands[i] for choice in job.strategy)


def results_of(job: Trial, i: int) -> Layouts:
    """The layouts of result i over all axes."""
    return tuple(choice.results[i] for choice in job.strategy)


def run_rank(whole: Whole, job: Trial, line: str, axes: tuple[Axis, ...]) -> RankOutcome:
    """What this rank computes by evaluating the line, each tensor in its place in the whole."""
    for axis, cuts in zip(axes, job.cuts, strict=True):
        axis.move(cuts)
    inputs = []
    for i, (tensor, gradient) in enumerate(zip(whole.operands, whole.gradients, strict=True)):
        part = laid_out(tensor, operands_of(job, i), axes, 1000 * (i + 1))
        inputs.append(part.requires_grad_() if gradient is not None else part)
    env = {**NAMES, **{axis.name.upper(): axis for axis in axes}, **{f"x{i}": x for i, x in enumerate(inputs)}}
    try:
        with drawing(0, 0):
            out = eval(_code(line), env)
        if whole.call.node.target == "autopar.batch_norm":  # it changes its running statistics in place
            out = (out, inputs[-2], inputs[-1])
        parts = (out,) if isinstance(out, torch.Tensor) else tuple(out)
        assert len(parts) == len(whole.results), f"{len(parts)} results, not {len(whole.results)}"
        return RankOutcome(_results(whole, job, parts, axes), *_gradients(whole, job, parts, inputs, axes))
    except Exception as error:
        error.add_note(f"{line}   {[str(choice) for choice in job.strategy]} cuts {job.cuts}")
        raise


@functools.lru_cache(maxsize=256)
def _code(line: str) -> CodeType:
    """The line compiled, once for all ranks."""
    return compile(line, "<emitted>", "eval")


def _results(
    whole: Whole, job: Trial, parts: Sequence[torch.Tensor], axes: tuple[Axis, ...]
) -> dict[int, torch.Tensor]:
    gathered = {}
    for i, (part, full) in enumerate(zip(parts, whole.results, strict=True)):
        if whole.call.results[i].name:
            assert part.dtype == full.dtype, f"result {i} is {part.dtype}, not {full.dtype}"
            gathered[i] = spread_out(part.detach(), full.shape, results_of(job, i), axes)
    return gathered


def _gradients(
    whole: Whole, job: Trial, parts: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], axes: tuple[Axis, ...]
) -> tuple[dict[int, torch.Tensor], frozenset[int]]:
    """Backward from cotangents by the duals of the results' layouts, and the operands that it came to."""
    roots, seeds = [], []
    for i, (part, cotangent) in enumerate(zip(parts, whole.cotangents, strict=True)):
        if cotangent is not None and part.requires_grad:
            roots.append(part)
            seeds.append(laid_out(cotangent, tuple(map(dual, results_of(job, i))), axes, 5000 * (i + 1)))
    leaves = {i: tensor for i, tensor in enumerate(inputs) if tensor.requires_grad}
    grads = (
        torch.autograd.grad(roots, list(leaves.values()), seeds, allow_unused=True) if roots else [None] * len(leaves)
    )
    gradients = {}
    for (i, leaf), grad in zip(leaves.items(), grads, strict=True):
        grad = torch.zeros_like(leaf) if grad is None else grad
        gradients[i] = spread_out(grad, whole.operands[i].shape, tuple(map(dual, operands_of(job, i))), axes)
    return gradients, frozenset(i for i, grad in zip(leaves, grads, strict=True) if grad is not None)


def emitted(op: Op, whole: Whole, rule: Rule, strategy: tuple[Choice, ...], axes: tuple[str, ...]) -> str:
    """The expression for the rank-local call, as codegen asks for it."""
    return op.emit(emit_context(whole.call, rule, local_of(rule, strategy, axes), map(Expr, whole.call.node.inputs)))
