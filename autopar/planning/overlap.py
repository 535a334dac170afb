"""The price of gradient sums while a plan is sought: which share of what the machine hides is waited for after all.

A profile says that the share `overlap` of a sum goes on beside backward. All that goes on there takes one lane in turn, and what
is left on it when backward ends is waited for. With C the seconds of everything else, S those of the sums on the lane, and H what
backward leaves room for, a step takes

    C + max(0, S - H)  =  max over 0 <= u <= 1 of  C + u (S - H)

which for one u is a sum over choices again: a sum costs 1 - overlap (1 - u) of its seconds. u = 0 is right where all hides, u = 1
at the margin where the lane is never empty. In between lies the multiplier at which two plans cost the same, one on either side:
it is found as the intersection of their lines (G. Handler, I. Zang, "A dual algorithm for the constrained shortest path problem",
Networks 10, 1980). Of all plans on the way, the one whose step is shortest by its timeline is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from autopar.costmodel.compute import parameter_seconds
from autopar.ir.graph import Value
from autopar.ir.layout import Layouts
from autopar.ir.machine import Machine
from autopar.partitioner.formulation.priced_problem import PricedProblem
from autopar.partitioner.problem import Array, evaluate
from autopar.planning.candidate import Candidate

_CLEARLY = 0.01
"""Share of a step below which nobody minds what is waited for: no other plan could save more than that."""
_ROUNDS = 3
"""How often sums are priced again at most."""


def with_less_overlap(machine: Machine, unhidden: float) -> Machine:
    """The machine with so much less overlap."""
    inter = machine.overlap_inter
    hides = 1 - unhidden
    return replace(machine, overlap=machine.overlap * hides, overlap_inter=None if inter is None else inter * hides)


def priced(built: PricedProblem, unhidden: float) -> PricedProblem:
    """The same problem where the share `unhidden` of what the machine hides of gradient sums is waited for."""
    if unhidden == built.unhidden:
        return built
    position = {key: i for i, key in enumerate(built.keys)}
    nodes = list(built.problem.nodes)
    known: dict[tuple[object, ...], Array] = {}
    for item in built.graph.parameters:
        value, key = built.graph.values[item.value], built.tied.get("storage:" + item.value, "storage:" + item.value)
        alike = (key, value.shape, value.dtype, item.kind)
        if alike not in known:
            storage = cast(Sequence[Layouts], built.options[key])
            known[alike] = _sums(built, value, item.kind, storage, unhidden)
            known[alike] = known[alike] - _sums(built, value, item.kind, storage, built.unhidden)
        at = position[key]
        nodes[at] = replace(nodes[at], costs=nodes[at].costs + known[alike])
    return replace(built, problem=replace(built.problem, nodes=tuple(nodes)), unhidden=unhidden)


def _sums(built: PricedProblem, value: Value, kind: str, storage: Sequence[Layouts], unhidden: float) -> Array:
    """Seconds of a parameter's gradient sum in each storage layout."""
    machine = with_less_overlap(built.machine, unhidden)
    return np.array([parameter_seconds(value, kind, stored, "sgd", built.grid, machine)[0] for stored in storage])


def cost(built: PricedProblem, choice: Sequence[int], unhidden: float) -> float:
    """What a choice costs where that share is waited for."""
    return evaluate(priced(built, unhidden).problem, choice)[0]


def next_share(tried: Sequence[tuple[float, Candidate]]) -> float | None:
    """The share to price sums with next, after those that were tried; None where no other could make the step shorter."""
    if not tried:
        return 0.0
    (_, less), *others = tried
    more: Candidate | None = None
    if len(others) >= _ROUNDS or not _waits(less):
        return None
    if not others:
        return 1.0
    for _, candidate in others[:-1]:
        less, more = (candidate, more) if _waits(candidate) else (less, candidate)
    share, last = others[-1]
    if any(other is not None and last.decision == other.decision for other in (less, more)):
        return None
    if _waits(last) and share == 1.0:  # no price makes more of what waits
        return None
    less, more = (last, more) if _waits(last) else (less, last)
    assert more is not None, "the first share is 1, and its plan either ends the search or waits for nothing"
    share = _crossing(less, more)
    return share if 0 < share < 1 else None


def shortest(tried: Sequence[tuple[float, Candidate]]) -> Candidate:
    """The candidate whose step is shortest by its timeline; of equal ones the last."""
    return min((candidate for _, candidate in reversed(tried)), key=lambda candidate: candidate.seconds)


def _waits(candidate: Candidate) -> bool:
    return candidate.waited > _CLEARLY * candidate.seconds


def _crossing(less: Candidate, more: Candidate) -> float:
    """The share at which two plans cost the same; `more` spends more on everything but sums."""
    (a, a_all), (b, b_all) = (
        [cost(candidate.built, candidate.solution.choice, share) for share in (0.0, 1.0)] for candidate in (less, more)
    )
    sums = (a_all - a) - (b_all - b)
    return (b - a) / sums if sums > 0 else 0.0
