"""The letters of an operator that has no record, found by running it on small made-up shards.

    form      what a call's letters may depend on, and shapes made up for it      discover_form
    trial     do the parts make up the whole, forward and backward?               discover_trial
    search    candidates, a quick trial of each, a thorough one of what passes    discover_search
    cache     verdicts on disk                                                    discover_cache
    text      a verdict as a record, and as source to paste                       discover_text

A letter is offered only where all trials agree: several shapes, uneven deals of rows, other values, backward. Nothing
is run at real shapes, so a model on the meta device compiles as well. Operators that draw random numbers, change their
operands, differ from run to run or crash have no letters. An operator with a record is looked at only where the record
refuses the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache

import msgspec

from autopar.ops.discovery import cache as discover_cache
from autopar.ops.discovery.call_shape import Form, form_of
from autopar.ops.discovery.record import MARK, notation, record, source
from autopar.ops.discovery.sandbox import in_child
from autopar.ops.discovery.search import Verdict, emptied, holds, refuse, search
from autopar.ops.discovery.trial import Unfit
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call
from autopar.progress import Progress, timed

_SECONDS = 20.0  # of one form: far more than any operator should take on small shapes


def discovered(call: Call) -> Op | None:
    """A record of the call with the letters that were found; None where there are none."""
    op = _record(form_of(call))
    if op is not None:
        with suppress(ValueError):
            op.rule(call)
            return op
    return None


def is_discovered(op: Op) -> bool:
    """Whether a record's letters were found by running the operator."""
    return op.note.startswith(MARK)


def record_source(call: Call) -> str:
    """The call's record as Python to paste into a file of one's own; it needs letters."""
    form = form_of(call)
    return source(form, verdict(form))


def why_not(call: Call) -> str:
    """Why no letters were found, as half a sentence."""
    return verdict(form_of(call)).reason


@cache
def _record(form: Form) -> Op | None:
    known = verdict(form)
    return record(form, known) if known.letters else None


@cache
def verdict(form: Form) -> Verdict:
    """What is known of a form: from the disk where it still holds, otherwise by search."""
    try:
        refuse(form)
    except Unfit as error:
        return Verdict(reason=str(error))
    kept = discover_cache.read(form)
    if kept is not None and not kept.letters:
        return kept
    current = _answered(lambda: kept if kept is not None and holds(form, kept) else search(form))
    if current is None:
        return Verdict(reason="it crashes, or takes too long, on made-up operands")
    if current != kept:
        current = _emptied(form, current) if current.letters else current
        discover_cache.write(form, current)
    return current


def _emptied(form: Form, current: Verdict) -> Verdict:
    """The verdict with letters of which a rank may hold no row; where trying that crashes, there are none of these."""
    return _answered(lambda: emptied(form, current)) or current


def _answered(function: Callable[[], Verdict]) -> Verdict | None:
    answer = in_child(lambda: msgspec.json.encode(function()), _SECONDS)
    return None if answer is None else msgspec.json.decode(answer, type=Verdict)


def explore(calls: Iterable[Call], tell: Progress) -> None:
    """Find out about calls without a rule, each form once; `tell` is told of each what came out, and the seconds."""
    for form in dict.fromkeys(map(form_of, calls)):
        name = form.target.removesuffix(".default")
        with timed(tell, "discovered") as said:
            said(name)
            known = verdict(form)
            letters = notation(form, known) if known.letters else f"runs whole: {known.reason}"
            said(f"{name}: {letters}")


def priced_as(op: Op, known: Op) -> Op:
    """A discovered record of a call that the operator's own record refuses: priced as the operator is."""
    return replace(op, work=known.work, backward=known.backward, saves=known.saves, flops=known.flops or op.flops)
