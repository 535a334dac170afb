"""What works take of what the plan says, learned from moves: pure functions of numbers that all ranks share.

Moving cuts changes what a rank does and not how fast it is. So the seconds of rank r before a move and after it say

    log T_r' / T_r = log f_r(cuts') / f_r(cuts) + noise

in which only the corrections c_k of `autopar.partitioner.cuts.rank_work` are unknown. They are those that make this most likely,
if log c_k is normally distributed about 0 beforehand: a least-squares problem, solved by Gauss and Newton's iteration, in
which large residuals count linearly (P. J. Huber, Annals of Mathematical Statistics 35, 1964), since a rank may become
slower while it is moved. What no cut makes smaller is known least: a program's own time is not in its plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autopar.partitioner.cuts.rank_work import GridCuts, StepWork, loads, shares

_NOISE = 0.03  # of a median of seconds, relative
_LARGE = 4 * _NOISE  # residuals that count linearly
_DIVIDED, _WHOLE = 0.7, 1.5  # how far log c is from 0, for works with factors and without
_ROUNDS = 12
_FARTHEST = 2.0  # by which a round may change log c


@dataclass(frozen=True, slots=True)
class ObservedMove:
    """Cuts before and after a move, and the seconds of every rank with them."""

    before: GridCuts
    after: GridCuts
    seconds_before: tuple[float, ...]
    seconds_after: tuple[float, ...]


def corrections(step: StepWork, moves: Sequence[ObservedMove]) -> tuple[float, ...]:
    """c_k of every work: 1 where nothing has been observed."""
    spread = [_DIVIDED if work.factors else _WHOLE for work in step.works]
    prior = torch.tensor([1 / one**2 for one in spread], dtype=torch.float64)
    told = [row for move in moves for row in _rows(step, move)]
    x = torch.zeros(len(step.works), dtype=torch.float64)
    if not told:
        return tuple(x.exp().tolist())
    before, after = (torch.tensor([row[i] for row in told], dtype=torch.float64) for i in (0, 1))
    seen = torch.tensor([row[2] for row in told], dtype=torch.float64)
    for _ in range(_ROUNDS):
        old, new = before * x.exp(), after * x.exp()
        residual = (new.sum(1) / old.sum(1)).log() - seen
        slope = new / new.sum(1, keepdim=True) - old / old.sum(1, keepdim=True)
        weight = (_LARGE / residual.abs().clamp(min=_LARGE)) / _NOISE**2
        curved = (slope.T * weight) @ slope + torch.diag(prior)
        change = torch.linalg.solve(curved, (slope.T * weight) @ residual + prior * x)
        x = x - change.clamp(-_FARTHEST, _FARTHEST)
    return tuple(x.exp().tolist())


def _rows(step: StepWork, move: ObservedMove) -> list[tuple[list[float], list[float], float]]:
    """Per rank its seconds in every work before and after, by the plan, and the logarithm of after over before as measured."""
    rows = []
    before, after = shares(step, move.before), shares(step, move.after)
    for rank, seconds in enumerate(zip(move.seconds_before, move.seconds_after, strict=True)):
        position, within = divmod(rank, step.ranks)
        own = [work.seconds[position] for work in step.works]
        old = [w * parts[within] for w, parts in zip(own, before, strict=True)]
        new = [w * parts[within] for w, parts in zip(own, after, strict=True)]
        if min(*seconds, sum(old), sum(new)) > 0:
            rows.append((old, new, math.log(seconds[1] / seconds[0])))
    return rows


def seen_changes(moves: Sequence[ObservedMove], current: GridCuts) -> dict[GridCuts, tuple[float, ...]]:
    """What every rank took, at cuts that it has been at, of what it takes at the current ones: no model says it better."""
    ranks = len(moves[-1].seconds_after) if moves else 0
    found = {current: (1.0,) * ranks}
    for move in reversed(moves):
        back = [_over(a, b) for a, b in zip(move.seconds_before, move.seconds_after, strict=True)]
        if move.after in found and move.before not in found:
            found[move.before] = tuple(c * b for c, b in zip(found[move.after], back, strict=True))
        elif move.before in found and move.after not in found:
            found[move.after] = tuple(_over(c, b) for c, b in zip(found[move.before], back, strict=True))
    return found


def misfit(step: StepWork, learned: Sequence[float], moves: Sequence[ObservedMove]) -> float:
    """By how much, relative, the works as they have been corrected are wrong about a move that has been made."""
    worst = 0.0
    for move in moves:
        before, after = (loads(step, learned, cuts) for cuts in (move.before, move.after))
        said = [t * _over(b, a) for t, a, b in zip(move.seconds_before, before, after, strict=True)]
        worst = max(worst, abs(math.log(max(said) / max(move.seconds_after))) if max(said) > 0 else 0.0)
    return worst


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else 1.0
