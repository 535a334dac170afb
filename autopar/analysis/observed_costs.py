"""What a profiled run says of the machine: prices of operators, speeds of ranks, links and updates, as a machine profile.

A call of operators o takes on rank r, if prices and speeds are wrong by the factors f and v,

    T = (1 / v_r) * sum over o of f_o w_o

with w_o as predicted. The logarithms of f and v are found by least squares over all calls and ranks, each weighted by its predicted
seconds, with little reason to believe that any is far from 0 (a ridge; A. E. Hoerl and R. W. Kennard, Technometrics 12, 1970): so a
position that is slow is told from segments that are priced too low as far as what they have in common allows. Ranks that differ
by less than 5 % are taken as alike. Then each f is scaled such that the predictions of its calls add up to what they took.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from autopar.analysis.plan_vs_profile import Exchange, call_seconds, compare
from autopar.costmodel.collectives import reaches
from autopar.ir.grid import GridShape
from autopar.ir.machine import Link, Machine, OperatorFactor, slowed
from autopar.ir.pipeline.measured_step import MeasuredStep
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.pipeline.schedule import parse_action
from autopar.ir.plan import NodePlan, Plan
from autopar.ir.profile import Profile

_SPREAD = 0.3  # how far the logarithms of f and v are from 0
_NOISE = 0.03  # of a measurement
_ALIKE = 0.05  # speeds that differ by less are equal
_SMALL = 65_536  # bytes up to which a message tells of a link's latency, and from which of its rate
_WAYS = ("forward", "backward")
_Key = tuple[str, str]  # operator, forward or backward


@dataclass(frozen=True, slots=True)
class ObservedCall:
    """A call, or a segment, on a rank: predicted and measured seconds, and which operators have which share of the prediction."""

    rank: int
    predicted: float
    measured: float
    shares: tuple[tuple[_Key, float], ...]


@dataclass(frozen=True, slots=True)
class ObservedFactors:
    """How many times as long as predicted calls of an operator take, and the speed of every rank over what it was thought."""

    operators: dict[_Key, float]
    speeds: tuple[float, ...]


def observed_machine(plan: Plan, measured: Profile | MeasuredStep) -> Machine:
    """The machine that the plan was made for, with prices as the run has shown them."""
    size = GridShape.parse(plan.grid).size
    calls = tuple(_segments(plan, measured) if isinstance(measured, MeasuredStep) else _calls(plan, measured))
    factors = fitted(calls, size)
    slow = {rank: 1 / speed for rank, speed in enumerate(factors.speeds) if speed != 1.0}
    machine = replace(plan.machine, operators=_operators(plan.machine, factors.operators))
    machine = slowed(machine, slow, size) if slow else machine
    if isinstance(measured, MeasuredStep):
        assert plan.placement is not None
        return _with_update(machine, plan, measured.after, max(plan.placement.update))
    took = [
        sum(piece.seconds for piece in rank.pieces if piece.kind == "update") * speed
        for rank, speed in zip(measured.ranks, factors.speeds, strict=True)
    ]
    return _with_links(_with_update(machine, plan, median(took), plan.predicted.update), plan, measured)


def fitted(calls: Sequence[ObservedCall], size: int) -> ObservedFactors:
    """The factors of operators, and of so many ranks, that explain what calls took."""
    calls = [call for call in calls if call.predicted > 0 and call.measured > 0]
    keys = list(dict.fromkeys(key for call in calls for key, _ in call.shares))
    if not calls:
        return ObservedFactors({}, (1.0,) * size)
    rows, seen = np.zeros((len(calls), len(keys) + size)), np.zeros(len(calls))
    number = {key: i for i, key in enumerate(keys)}
    whole = max(call.predicted for call in calls)
    for i, call in enumerate(calls):
        weight = math.sqrt(call.predicted / whole) / _NOISE
        for key, share in call.shares:
            rows[i, number[key]] += weight * share
        rows[i, len(keys) + call.rank] = -weight
        seen[i] = weight * math.log(call.measured / call.predicted)
    prior = np.eye(rows.shape[1]) / _SPREAD
    solution = np.linalg.lstsq(np.vstack([rows, prior]), np.append(seen, np.zeros(len(prior))), rcond=None)[0]
    speeds = np.exp(solution[len(keys) :] - solution[len(keys) :].max())
    if speeds.min() > 1 - _ALIKE:
        speeds = np.ones(size)
    common = solution[len(keys) :].max()
    operators = {key: float(np.exp(solution[i] - common)) for key, i in number.items()}
    return ObservedFactors(_scaled(operators, calls, speeds.tolist()), tuple(round(float(v), 3) for v in speeds))


def _scaled(operators: dict[_Key, float], calls: Iterable[ObservedCall], speeds: Sequence[float]) -> dict[_Key, float]:
    """The factors, each scaled such that what is predicted of its calls adds up to what they took."""
    took, said = dict.fromkeys(operators, 0.0), dict.fromkeys(operators, 0.0)
    for call in calls:
        parts = {key: call.predicted * share * operators[key] for key, share in call.shares}
        ratio = call.measured * speeds[call.rank] / sum(parts.values())
        for key, part in parts.items():
            took[key] += part * ratio
            said[key] += part
    return {key: factor * took[key] / said[key] if said[key] else factor for key, factor in operators.items()}


def _operators(machine: Machine, factors: dict[_Key, float]) -> tuple[OperatorFactor, ...]:
    """The factors of the machine times those that were seen."""
    names = dict.fromkeys([*(one.operator for one in machine.operators), *(name for name, _ in factors)])
    return tuple(
        OperatorFactor(
            name,
            *(
                float(f"{before * factors.get((name, way), 1.0):.3g}")
                for before, way in zip(machine.factors(name), _WAYS, strict=True)
            ),
        )
        for name in sorted(names)
    )


def _calls(plan: Plan, profile: Profile) -> Iterator[ObservedCall]:
    """Every call of a profiled program on every rank."""
    for way, nodes, seconds in call_seconds(plan, profile):
        for rank, took in enumerate(seconds):
            said = sum(_seconds(node, way) * (node.ranks[rank] if node.ranks else 1.0) for node in nodes)
            yield ObservedCall(rank, said, took, (((nodes[0].target, way), 1.0),))


def _segments(plan: Plan, step: MeasuredStep) -> Iterator[ObservedCall]:
    """Every segment of a divided program on every rank, for a micro-batch: what backward defers counts as backward."""
    assert plan.placement is not None
    for rank in step.ranks:
        seconds: dict[tuple[int, str], list[float]] = {}
        for one in rank.actions:
            kind, segment, _ = parse_action(one.action)
            seconds.setdefault((segment, kind), []).append(one.work)
        for segment in sorted({number for number, _ in seconds}):
            parts = {kind: median(every) for (number, kind), every in seconds.items() if number == segment}
            took = {"forward": parts.get("F", 0.0), "backward": parts.get("B", 0.0) + parts.get("W", 0.0)}
            for way in _WAYS:
                yield _segment(plan, plan.placement, segment, rank.rank, way, took[way])


def _segment(plan: Plan, placement: PlacementPlan, segment: int, rank: int, way: str, took: float) -> ObservedCall:
    """What one segment took on a rank, forward or backward; nothing is predicted of one that the plan does not have."""
    if segment >= len(placement.segments):
        return ObservedCall(rank, 0.0, took, ())
    said, names = placement.segments[segment], set(placement.segments[segment].calls)
    shares: dict[_Key, float] = {}
    for node in plan.nodes:
        if node.name in names and _seconds(node, way) > 0:
            shares[node.target, way] = shares.get((node.target, way), 0.0) + _seconds(node, way)
    whole = sum(shares.values())
    predicted = said.seconds_forward if way == "forward" else said.seconds_backward
    return ObservedCall(rank, predicted if whole else 0.0, took, tuple((key, s / whole) for key, s in shares.items()))


def _seconds(node: NodePlan, way: str) -> float:
    return node.seconds_forward if way == "forward" else node.seconds_backward


def _with_update(machine: Machine, plan: Plan, took: float, said: float) -> Machine:
    """The machine with the rate of an update that took so many seconds where others were predicted."""
    if took <= 0 or said <= 0:
        return machine
    rate = machine.update_rate(plan.options.optimizer) * said / took
    return replace(machine, update=tuple(sorted({**dict(machine.update), plan.options.optimizer: rate}.items())))


def _with_links(machine: Machine, plan: Plan, profile: Profile) -> Machine:
    """The machine with links as messages have shown them: small ones the latency, large ones the rate."""
    grid, rows = GridShape.parse(plan.grid), compare(plan, profile, {}).primitives
    between = {
        name for name, reach in zip(grid.names, reaches(plan.machine, plan.shape), strict=True) if reach.across > 1
    }
    for place in ("intra", "inter"):
        here = [row for row in rows if isinstance(row, Exchange) and (row.axis in between) == (place == "inter")]
        machine = _with_link(machine, place, here)
    return machine


def _with_link(machine: Machine, place: str, rows: Sequence[Exchange]) -> Machine:
    """One kind of link, from the exchanges over it."""
    slower = [1.0, 1.0]
    for i, some in enumerate((_sent(rows, small=True), _sent(rows, small=False))):
        said, took = sum(row.predicted for row in some), sum(row.least for row in some)
        slower[i] = took / said if said > 0 and took > 0 else 1.0
    alpha, beta = slower
    link: Link = getattr(machine, place)
    fits = tuple(
        replace(fit, alpha=fit.alpha * alpha, beta=tuple(rate / beta for rate in fit.beta))
        if fit.place == place
        else fit
        for fit in machine.fits
    )
    new = Link(link.alpha * alpha, link.beta / beta)
    return replace(machine, fits=fits, intra=new) if place == "intra" else replace(machine, fits=fits, inter=new)


def _sent(rows: Sequence[Exchange], *, small: bool) -> list[Exchange]:
    """The exchanges of which one message is small, or is not; without those that send nothing."""
    return [row for row in rows if row.sent[0] > 0 and (row.sent[0] / row.times <= _SMALL) == small]
