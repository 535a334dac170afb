"""Candidate -> program.py, Plan: the steps are checked, written as one readable SPMD file, and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from autopar.codegen import emit as program
from autopar.codegen import soundness
from autopar.codegen.symbolic_batch import Baked, variant
from autopar.counts_program import counts_of
from autopar.divided_model import DividedModel
from autopar.internal_errors import BrokenCall
from autopar.ir.plan import BatchPlan, Options, Plan
from autopar.planning import plan_record
from autopar.planning.candidate import Candidate
from autopar.planning.placing import Placed
from autopar.subject import Subject

Emitter = Callable[..., program.Emitted]
"""`autopar.codegen.emit.emit` of a candidate, but for its `variant` and its `division`."""


def emitted(
    candidate: Candidate,
    subject: Subject,
    options: Options,
    placed: Placed | None = None,
    division: DividedModel | None = None,
) -> tuple[Plan, str]:
    """The plan and the program of a candidate. Raises BrokenCall where a call is unsound under its record.

    `placed` is what lies where on a place axis. Of a model in micro-batches it is the candidate of one micro-batch's graph.
    """
    _check_sound(candidate)
    emit = _emitter(candidate, subject, placed)
    code, batch = (
        _code(candidate, subject, emit) if division is None else _divided_code(candidate, subject, division, emit)
    )
    training = subject.captured.training if division is None else division.training
    plan = plan_record.plan(candidate, options, subject.source, subject.captured, code, batch, placed, training)
    return plan, code.text


def _check_sound(candidate: Candidate) -> None:
    """Raises BrokenCall where a call is unsound under its record."""
    try:
        soundness.check(candidate.program, candidate.decision.storage, candidate.built.grid)
    except soundness.UnsoundProgram as error:
        if not error.call:
            raise
        raise BrokenCall(error.call, f"its record is unsound: {error}") from error


def _code(candidate: Candidate, subject: Subject, emit: Emitter) -> tuple[program.Emitted, BatchPlan]:
    """The program, for any number of rows where the model allows it, and what it says about its batch."""
    built, decision = candidate.built, candidate.decision
    batch, annotated = subject.captured.batch, subject.annotated
    known = BatchPlan(batch.rows, batch.inputs, batch.fixed, (), batch.sizes)
    if annotated.larger is None:
        return emit(), known
    try:
        more = variant(annotated, annotated.larger, decision.storage)
        return emit(more), replace(known, filled=plan_record.filled_by_rows(built, decision, more))
    except Baked as why:
        return emit(), replace(known, fixed=str(why))


def _divided_code(
    candidate: Candidate, subject: Subject, division: DividedModel, emit: Emitter
) -> tuple[program.Emitted, BatchPlan]:
    """The program of a micro-batch, for any number of rows where the model allows it, and what it says about its batch."""
    built, decision = candidate.built, candidate.decision
    rows, count, larger = subject.captured.batch.rows, division.plan.microbatches, division.annotated.larger
    known = BatchPlan(rows, division.inputs, division.fixed, (), division.sizes, division=division.plan)

    def counts(*, symbolic: bool) -> program.EmittedMicrobatches:
        own = None if division.counts is None else counts_of(division.counts, built, decision, symbolic)
        return program.EmittedMicrobatches(count, own)

    if larger is None:
        return emit(division=counts(symbolic=False)), known
    try:
        more = variant(division.annotated, larger, decision.storage)
        code = emit(more, division=counts(symbolic=True))
        return code, replace(known, filled=plan_record.filled_by_rows(built, decision, more))
    except Baked as why:
        return emit(division=counts(symbolic=False)), replace(known, fixed=division.checked(rows, str(why)))


def _emitter(candidate: Candidate, subject: Subject, placed: Placed | None) -> Emitter:
    """`program.emit` of a candidate, but for what makes it a program for any number of rows, or for micro-batches."""
    from autopar.runtime import __all__ as exported

    built, nodes = candidate.built, candidate.parts.nodes
    seconds = {node.name: node.seconds for node in nodes}
    inside = {node.name: plan_record.exchanged(node) for node in nodes}
    grid, schedule = (placed.grid, placed.lists) if placed else (built.grid, ())
    heading = program.Text(built.graph.name, Path(subject.source.path).name, grid, seconds, inside)
    names = frozenset(exported)
    return partial(program.emit, built.graph, candidate.decision, candidate.program, heading, names, schedule=schedule)
