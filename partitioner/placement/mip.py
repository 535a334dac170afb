"""Placement as an integer program, for problems of up to some sixty calls (or blocks): optimum, or a bound, of this objective.

    x[c, k, q] in {0, 1}: call c stands in stage k, which lies on position q;  y[k, q] in {0, 1}: that stage does  _PlacementModel
    at[c, q] = sum_k x[c, k, q];  stages are numbered along the arrows, so that no segment waits for itself

    sum_kq x[c, k, q] = 1;  x[c, k, q] <= y[k, q];  sum_q y[k, q] <= 1;  sum_k y[k, q] <= segments per position      _stages
    sum_(j <= k, q) x[d, j, q] <= sum_(j <= k, q) x[c, j, q]          for every arrow from c to d                    _order
    sum_a sent[t, a, b] >= at[reader, b] - at[source, b];  sent[t, a, b] <= at[source, a]                            _messages
    sum_p size_p held[p, q] + saved_c at[c, q] <= memory_q  for every call c;  held[p, q] >= at[reader, q]           _memory

    minimise T, no less than `placement_bound`, with                  for every position q, channel (a, b), call c
    T >= head_q + m sum_c seconds_c at[c, q] / speed_q + tail_q                                                      _loads
    T >= m sum_t seconds_t[a, b] sent[t, a, b]                                                                       _messages
    T >= the end of c's backward on the longest way of one micro-batch, with the messages on it                      _ways

where head_q is the least head of the calls at q, and tail_q the least tail: with calls sorted by them, the sum over j of
``(head_j - head_(j-1)) first[q, j]``, where ``first[q, j] >= 1 - sum_(i < j) at[i, q]`` says that none before the j-th is at q.

Every simulated makespan is at least T of its assignment, so that the bound is one for placements too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pulp

from autopar.partitioner.placement.assignment import Assignment, assign
from autopar.partitioner.placement.bounds import heads_and_tails, placement_bound
from autopar.partitioner.placement.problem import PlacementProblem, arrows, kinds
from autopar.partitioner.solvers.highs import run

_SCALE = 1e3
"""What the bound of a placement is scaled to: HiGHS's tolerances are absolute."""
Term = tuple[pulp.LpVariable, float]


@dataclass(frozen=True, slots=True)
class MipResult:
    """The best assignment found (None: none in the time), its objective, a lower bound of it, and whether they have met."""

    assignment: Assignment | None
    objective: float
    bound: float
    proven: bool


def solve_mip(problem: PlacementProblem, segments_per_position: int = 1, time_limit: float = 60.0) -> MipResult:
    """The assignment with the least T, in seconds (see above)."""
    deadline = time.perf_counter() + time_limit
    model = _PlacementModel(problem, segments_per_position)
    for constrain in (_stages, _order, _messages, _memory, _loads, _ways):
        constrain(model)
    status, bound = run(model.program, deadline, True)
    if status == pulp.LpSolutionInfeasible:
        return MipResult(None, math.inf, math.inf, True)
    bound /= model.scale
    if status == pulp.LpSolutionNoSolutionFound:
        return MipResult(None, math.inf, bound, False)
    assignment = assign(problem, model.chosen(), [q for _, q in model.slots])
    assert assignment is not None, "stages that wait for each other"
    objective = float(model.longest.varValue) / model.scale
    return MipResult(assignment, objective, min(bound, objective), status == pulp.LpSolutionOptimal)


class _PlacementModel:
    """The variables, and the program while it is put together."""

    def __init__(self, problem: PlacementProblem, most: int) -> None:
        self.problem, self.most = problem, most
        self.program = pulp.LpProblem("placement", pulp.LpMinimize)
        self.stages, self.positions = range(most * len(problem.positions)), range(len(problem.positions))
        ordered = most == 1 and not any(kinds(problem)) and not problem.idle
        self.slots = [(k, q) for k in self.stages for q in self.positions if not ordered or k == q]
        self.stage = [self.binary(f"y{k}_{q}") for k, q in self.slots]
        self.call = [[self.binary(f"x{c}_{k}_{q}") for k, q in self.slots] for c in range(len(problem.calls))]
        self.scale = _SCALE / (placement_bound(problem) or 1.0)
        self.longest = self.program.add_variable("T", placement_bound(problem) * self.scale)
        self.program.setObjective(pulp.LpAffineExpression([(self.longest, 1.0)]))

    def binary(self, name: str) -> pulp.LpVariable:
        """A variable that is 0 or 1."""
        return self.program.add_variable(name, cat=pulp.LpBinary)

    def number(self, name: str) -> pulp.LpVariable:
        """A variable that is not negative."""
        return self.program.add_variable(name, 0.0)

    def at(self, call: int, position: int, factor: float = 1.0) -> list[Term]:
        """The terms of ``factor * at[call, position]``."""
        return [(x, factor) for x, (_, q) in zip(self.call[call], self.slots, strict=True) if q == position]

    def least(self, terms: Iterable[Term], constant: float = 0.0) -> None:
        """The terms come to `constant` or more."""
        self.program.addConstraint(pulp.LpAffineExpression(list(terms)) >= constant)

    def seconds(self, terms: Iterable[Term]) -> None:
        """T is no less than the terms, which are seconds."""
        self.least([(self.longest, 1.0), *((x, -factor * self.scale) for x, factor in terms)])

    def chosen(self) -> list[int]:
        """The slot of each call."""
        return [max(range(len(row)), key=lambda slot: row[slot].varValue) for row in self.call]


def _stages(model: _PlacementModel) -> None:
    """Every call in one slot, every stage on one position at most, every position with few stages."""
    for c, row in enumerate(model.call):
        model.program.addConstraint(pulp.LpAffineExpression([(x, 1.0) for x in row]) == 1)
        for x, y, (_, q) in zip(row, model.stage, model.slots, strict=True):
            model.least([(y, 1.0), (x, -1.0)])
            if q not in model.problem.allowed[c]:
                model.least([(x, -1.0)])
    for k in model.stages:
        model.least([(y, -1.0) for y, slot in zip(model.stage, model.slots, strict=True) if slot[0] == k], -1.0)
    for q in model.positions:
        model.least([(y, -1.0) for y, slot in zip(model.stage, model.slots, strict=True) if slot[1] == q], -model.most)
        if not model.problem.idle:
            model.least([term for c in range(len(model.call)) for term in model.at(c, q)], 1.0)


def _order(model: _PlacementModel) -> None:
    """No call in an earlier stage than one it reads from."""
    for source, reader in dict.fromkeys(arrows(model.problem)):
        for k in model.stages[:-1]:
            terms = [(x, 1.0) for x, slot in zip(model.call[source], model.slots, strict=True) if slot[0] <= k]
            terms += [(x, -1.0) for x, slot in zip(model.call[reader], model.slots, strict=True) if slot[0] <= k]
            model.least(terms)


def _messages(model: _PlacementModel) -> None:
    """Every channel carries its messages, each tensor once to a position."""
    problem, links = model.problem, model.problem.links
    channels: dict[tuple[int, int], list[Term]] = {}
    for number, tensor in enumerate(problem.tensors):
        for b in model.positions:
            others = [a for a in model.positions if a != b]
            sent = {a: model.number(f"sent{number}_{a}_{b}") for a in others}
            for reader in tensor.readers:
                arrives = [(sent[a], 1.0) for a in others]
                model.least([*arrives, *model.at(reader, b, -1.0), *model.at(tensor.source, b)])
            for a in others:
                model.least([*model.at(tensor.source, a), (sent[a], -1.0)])
                there = problem.microbatches * (links.alpha[a][b] + tensor.size * links.beta[a][b])
                channels.setdefault((a, b), []).append((sent[a], there))
                if tensor.gradient:
                    back = problem.microbatches * (links.alpha[b][a] + tensor.gradient * links.beta[b][a])
                    channels.setdefault((b, a), []).append((sent[a], back))
    for terms in channels.values():
        model.seconds(terms)


def _memory(model: _PlacementModel) -> None:
    """Parameters where they are read, and what a call saves, within the limit of every position."""
    problem = model.problem
    for q, limit in enumerate(problem.memories):
        if math.isinf(limit):
            continue
        terms: list[Term] = []
        for number, parameter in enumerate(problem.parameters):
            held = model.number(f"held{number}_{q}")
            terms.append((held, -parameter.size / limit))
            for reader in parameter.readers:
                model.least([(held, 1.0), *model.at(reader, q, -1.0)])
        for c, call in enumerate(problem.calls):
            model.least([*model.at(c, q, -call.saved / limit), *terms], -1.0)


def _loads(model: _PlacementModel) -> None:
    """Every position does its work between its least head and its least tail."""
    problem = model.problem
    heads, tails = heads_and_tails(problem)
    for q, speed in enumerate(problem.speeds):
        terms: list[Term] = []
        for c, call in enumerate(problem.calls):
            terms += model.at(c, q, problem.microbatches * (call.forward + call.backward) / speed)
        if not problem.idle:
            terms += _least_of(model, heads, q, "head") + _least_of(model, tails, q, "tail")
        model.seconds(terms)


def _least_of(model: _PlacementModel, seconds: Sequence[float], position: int, name: str) -> list[Term]:
    """The least of the seconds of the calls at a position."""
    terms: list[Term] = []
    before: list[Term] = []
    last = 0.0
    for call in sorted(range(len(seconds)), key=lambda call: seconds[call]):
        if seconds[call] > last:
            first = model.number(f"{name}{position}_{call}")
            model.least([(first, 1.0), *before], 1.0)
            terms.append((first, seconds[call] - last))
            last = seconds[call]
        before += model.at(call, position)
    return terms


def _ways(model: _PlacementModel) -> None:
    """Every call's forward and backward of one micro-batch after those before it and the cheapest messages between."""
    problem = model.problem
    forward = [model.number(f"forward{c}") for c in range(len(problem.calls))]
    backward = [model.number(f"backward{c}") for c in range(len(problem.calls))]
    for c, call in enumerate(problem.calls):
        model.least([(forward[c], 1.0), *_spent(model, c, -call.forward)])
        model.least([(backward[c], 1.0), (forward[c], -1.0), *_spent(model, c, call.weight - call.backward)])
        model.least([(model.longest, 1.0), (backward[c], -1.0), *_spent(model, c, -call.weight)])
    alpha, beta = (
        min((row[b] for a, row in enumerate(table) for b in model.positions if a != b), default=0.0)
        for table in (problem.links.alpha, problem.links.beta)
    )
    for number, tensor in enumerate(problem.tensors):
        a, call = tensor.source, problem.calls[tensor.source]
        for b in tensor.readers:
            cut = model.number(f"cut{number}_{b}")
            for q in model.positions:
                model.least([(cut, 1.0), *model.at(b, q, -1.0), *model.at(a, q)])
            there = -(alpha + beta * tensor.size) * model.scale
            reader = _spent(model, b, -problem.calls[b].forward)
            model.least([(forward[b], 1.0), (forward[a], -1.0), (cut, there), *reader])
            if tensor.gradient:
                back = -(alpha + beta * tensor.gradient) * model.scale
                source = _spent(model, a, call.weight - call.backward)
                model.least([(backward[a], 1.0), (backward[b], -1.0), (cut, back), *source])


def _spent(model: _PlacementModel, call: int, seconds: float) -> list[Term]:
    """Seconds of a call on the position where it stands."""
    return [
        term
        for q, speed in enumerate(model.problem.speeds)
        for term in model.at(call, q, seconds * model.scale / speed)
    ]
