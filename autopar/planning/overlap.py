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

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from autopar.costmodel.compute import parameter_seconds
from autopar.errors import InfeasiblePlan
from autopar.ir.graph import Value
from autopar.ir.layout import Layouts
from autopar.ir.machine import Machine
from autopar.partitioner.formulation.priced_problem import Built
from autopar.partitioner.problem import Array, evaluate
from autopar.planning.candidate import Outcome

_CLEARLY = 0.01
"""Share of a step below which nobody minds what is waited for: no other plan could save more than that."""
_ROUNDS = 3
"""How often sums are priced again at most."""

Seek = Callable[[float], Outcome]
"""The best plan where this share of what the machine hides is waited for."""


def as_if(machine: Machine, unhidden: float) -> Machine:
    """The machine with so much less overlap."""
    inter = machine.overlap_inter
    hides = 1 - unhidden
    return replace(machine, overlap=machine.overlap * hides, overlap_inter=None if inter is None else inter * hides)


def priced(built: Built, unhidden: float) -> Built:
    """The same problem where the share `unhidden` of what the machine hides of gradient sums is waited for."""
    if unhidden == built.unhidden:
        return built
    position = {key: i for i, key in enumerate(built.keys)}
    nodes = list(built.problem.nodes)
    known: dict[tuple[object, ...], Array] = {}
    for item in built.graph.parameters:
        value, key = built.graph.values[item.value], built.tied.get("home:" + item.value, "home:" + item.value)
        alike = (key, value.shape, value.dtype, item.kind)
        if alike not in known:
            homes = cast(Sequence[Layouts], built.options[key])
            known[alike] = _sums(built, value, item.kind, homes, unhidden)
            known[alike] = known[alike] - _sums(built, value, item.kind, homes, built.unhidden)
        at = position[key]
        nodes[at] = replace(nodes[at], costs=nodes[at].costs + known[alike])
    return replace(built, problem=replace(built.problem, nodes=tuple(nodes)), unhidden=unhidden)


def _sums(built: Built, value: Value, kind: str, homes: Sequence[Layouts], unhidden: float) -> Array:
    """Seconds of a parameter's gradient sum in each home."""
    machine = as_if(built.machine, unhidden)
    return np.array([parameter_seconds(value, kind, home, "sgd", built.grid, machine)[0] for home in homes])


def cost(built: Built, choice: Sequence[int], unhidden: float) -> float:
    """What a choice costs where that share is waited for."""
    return evaluate(priced(built, unhidden).problem, choice)[0]


def shortest(seek: Seek, tell: Callable[[float, float], None] = lambda share, change: None) -> Outcome:
    """The plan whose step is shortest by its timeline, of those that are best under some price of gradient sums.

    `tell` is told each share that sums were priced with again, and by which share of the step the best one so far became shorter.
    Raises InfeasiblePlan where there is no plan at all.
    """
    best = less = seek(0.0)
    if not _waits(best):
        return best
    more: Outcome | None = None
    share = 1.0
    for _ in range(_ROUNDS):
        try:
            found = seek(share)
        except InfeasiblePlan:  # a matter of the solver's time, since prices do not change what fits
            break
        tell(share, 1 - found.seconds / best.seconds)
        best = found if found.seconds <= best.seconds else best
        if any(other is not None and found.decision == other.decision for other in (less, more)):
            break
        if _waits(found) and share == 1.0:  # no price makes more of what waits
            break
        less, more = (found, more) if _waits(found) else (less, found)
        assert more is not None, "the first share is 1, and its plan either ends the search or waits for nothing"
        share = _crossing(less, more)
        if not 0 < share < 1:
            break
    return best


def _waits(one: Outcome) -> bool:
    return one.waited > _CLEARLY * one.seconds


def _crossing(less: Outcome, more: Outcome) -> float:
    """The share at which two plans cost the same; `more` spends more on everything but sums."""
    (a, a_all), (b, b_all) = (
        [cost(one.built, one.solution.choice, share) for share in (0.0, 1.0)] for one in (less, more)
    )
    sums = (a_all - a) - (b_all - b)
    return (b - a) / sums if sums > 0 else 0.0
