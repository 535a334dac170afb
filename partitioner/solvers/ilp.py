"""The partition problem as an integer linear program, solved by HiGHS through PuLP.

    x[i, s] in {0, 1}, y[e, a, b] >= 0 for allowed pairs only                                        _nodes, _flows
    minimise  sum_i sum_s cost_i[s] x[i, s] + sum_e sum_(a, b) cost_e[a, b] y[e, a, b]               _objective
    sum_s x[i, s] = 1                                       for every node i                          _nodes
    sum_b y[e, a, b] = x[i, a],  sum_a y[e, a, b] = x[j, b] for every edge e = (i, j)                 _flows
    sum_(i live at k) sum_s memory_i[s] x[i, s] <= room[k]  for every time k that can bind            _memory
    (for the least peak instead:  minimise z,  with  z >= the left side)                              least_peak

The equality-flow form is as tight as pairwise relaxations get: y needs no integrality, and the linear relaxation is often
integral already. So it is solved first; its value is the lower bound, and branching only begins where it is fractional.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pulp

from autopar.partitioner.problem import Array, Choices, Edge, Problem, evaluate
from autopar.partitioner.solvers.highs import run
from autopar.partitioner.solvers.lagrangian_dual import Choice, used, value
from autopar.partitioner.solvers.presolve import Core, Wiped, core, factors, reduce, restore

_INTEGRAL = 1e-6
_SCALE = 1e3
"""Costs and memory are scaled to this size: HiGHS's tolerances are absolute, about 1e-9."""


@dataclass(frozen=True, slots=True, eq=False)
class IlpResult:
    """The best choice found (None for none), a lower bound, and whether the search ended (else the time did)."""

    choice: Choice | None
    bound: float
    finished: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    program: pulp.LpProblem
    nodes: list[list[pulp.LpVariable]]
    flows: list[list[tuple[int, int, pulp.LpVariable]]]


def solve_core(problem: Core, time_limit: float) -> IlpResult:
    """The cheapest choice that meets the limit, by linear relaxation, then branch and bound."""
    if not problem.costs:
        return IlpResult(np.zeros(0, dtype=np.intp), problem.constant, True)
    deadline = time.perf_counter() + time_limit
    scale = _SCALE / _size([*problem.costs, *(edge.costs for edge in problem.edges)])
    model = _start(problem)
    model.program.setObjective(_objective(problem, model, scale))
    _memory(problem, model, None)
    status, floor = run(model.program, deadline, False)
    if status == pulp.LpSolutionInfeasible:
        return IlpResult(None, math.inf, True)
    if status != pulp.LpSolutionOptimal:
        return IlpResult(None, -math.inf, False)
    bound = floor / scale + problem.constant
    choice = _integral(model)
    if choice is None or not _allowed(problem, choice):
        return _branch(problem, model, deadline, scale, bound)
    return IlpResult(choice, min(bound, value(problem, choice)), True)


def _branch(problem: Core, model: _Model, deadline: float, scale: float, bound: float) -> IlpResult:
    """Branch and bound. A choice that misses the limit within the solver's tolerance is cut off, and the search resumed."""
    while True:
        status, floor = run(model.program, deadline, True)
        if status == pulp.LpSolutionInfeasible:
            return IlpResult(None, math.inf, True)
        choice = None if status == pulp.LpSolutionNoSolutionFound else _rounded(model)
        bound = max(bound, floor / scale + problem.constant)
        if choice is None or _allowed(problem, choice):
            if choice is not None:
                bound = min(bound, value(problem, choice))
            return IlpResult(choice, bound, status == pulp.LpSolutionOptimal)
        chosen = [(row[s], 1.0) for row, s in zip(model.nodes, choice, strict=True)]
        model.program.addConstraint(pulp.LpAffineExpression(chosen) <= len(chosen) - 1)


def least_peak(problem: Problem, time_limit: float) -> tuple[float, tuple[int, ...], bool] | None:
    """The smallest limit that some choice meets, that choice, and whether this is proven; None if no choice is allowed."""
    f = factors(_costless(problem))
    f.room[:] = math.inf
    try:
        reduce(f, settle=False)
    except Wiped:
        return None
    small = core(f)
    small = replace(small, room=np.zeros(small.room.size))
    if any(costs.size > 1 for costs in small.costs):
        scale = _SCALE / _size(small.memory)
        model = _start(small)
        highest = model.program.add_variable("z", 0.0)
        model.program.setObjective(pulp.LpAffineExpression([(highest, 1.0)]))
        _memory(replace(small, memory=tuple(memory * scale for memory in small.memory)), model, highest)
        status, _ = run(model.program, time.perf_counter() + time_limit, True)
        if status == pulp.LpSolutionInfeasible:
            return None
        if status == pulp.LpSolutionNoSolutionFound:
            return math.inf, (), False
        local, proven = _rounded(model), status == pulp.LpSolutionOptimal
    else:
        local, proven = np.zeros(len(small.costs), dtype=np.intp), True
    choice = restore(f, dict(zip(small.nodes, map(int, local), strict=True)))
    return evaluate(problem, choice)[1], choice, proven


def _costless(problem: Problem) -> Problem:
    """The same nodes and forbidden pairs, all else for nothing."""

    def only_forbidden(costs: Array) -> Array:
        return np.where(np.isinf(costs), np.inf, 0.0)

    nodes = tuple(Choices(n.name, only_forbidden(n.costs), n.memory, n.start, n.stop) for n in problem.nodes)
    edges = tuple(Edge(edge.a, edge.b, only_forbidden(edge.costs)) for edge in problem.edges)
    return Problem(nodes, edges, 1.0)


def _size(arrays: Iterable[Array]) -> float:
    """The largest finite magnitude, 1 where there is none but zero."""
    return max((float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) for array in arrays), default=0.0) or 1.0


def _start(problem: Core) -> _Model:
    """The program with the node variables, and the flows over the edges."""
    program = pulp.LpProblem("partition", pulp.LpMinimize)
    nodes = _nodes(problem, program)
    return _Model(program, nodes, _flows(problem, program, nodes))


def _nodes(problem: Core, program: pulp.LpProblem) -> list[list[pulp.LpVariable]]:
    """x[i, s], of which one per node is 1."""
    rows = []
    for i, costs in enumerate(problem.costs):
        row = [program.add_variable(f"x{i}_{s}", cat=pulp.LpBinary) for s in range(costs.size)]
        program.addConstraint(pulp.LpAffineExpression([(x, 1.0) for x in row]) == 1)
        rows.append(row)
    return rows


def _flows(
    problem: Core, program: pulp.LpProblem, nodes: list[list[pulp.LpVariable]]
) -> list[list[tuple[int, int, pulp.LpVariable]]]:
    """y[e, a, b] of the allowed pairs, whose sums over b and over a are the node variables."""
    flows = []
    for e, edge in enumerate(problem.edges):
        flow = []
        sums: list[list[tuple[pulp.LpVariable, float]]] = [[(x, -1.0)] for x in (*nodes[edge.a], *nodes[edge.b])]
        for a, b in np.argwhere(np.isfinite(edge.costs)).tolist():
            y = program.add_variable(f"y{e}_{a}_{b}", 0)
            flow.append((a, b, y))
            sums[a].append((y, 1.0))
            sums[edge.costs.shape[0] + b].append((y, 1.0))
        for terms in sums:
            program.addConstraint(pulp.LpAffineExpression(terms) == 0)
        flows.append(flow)
    return flows


def _objective(problem: Core, model: _Model, scale: float) -> pulp.LpAffineExpression:
    terms = [
        (x, cost * scale)
        for row, costs in zip(model.nodes, problem.costs, strict=True)
        for x, cost in zip(row, costs.tolist(), strict=True)
    ]
    for edge, flow in zip(problem.edges, model.flows, strict=True):
        terms += [(y, float(edge.costs[a, b]) * scale) for a, b, y in flow]
    return pulp.LpAffineExpression(terms)


def _memory(problem: Core, model: _Model, highest: pulp.LpVariable | None) -> None:
    """The memory of what is live at each time: within the room, or within the room and `highest`."""
    for k, room in enumerate(problem.room.tolist()):
        scale = _SCALE / (room or 1.0) if highest is None else 1.0
        terms = [
            (x, held * scale)
            for row, memory, (first, last) in zip(model.nodes, problem.memory, problem.spans, strict=True)
            if first <= k < last
            for x, held in zip(row, memory.tolist(), strict=True)
            if held
        ]
        if highest is not None:
            terms.append((highest, -1.0))
        model.program.addConstraint(pulp.LpAffineExpression(terms) <= room * scale)


def _integral(model: _Model) -> Choice | None:
    """The choice, where every node variable is a whole number."""
    values = [x.varValue for row in model.nodes for x in row]
    return _rounded(model) if all(min(abs(v), abs(1 - v)) <= _INTEGRAL for v in values) else None


def _rounded(model: _Model) -> Choice:
    return np.array([int(np.argmax([x.varValue for x in row])) for row in model.nodes], dtype=np.intp)


def _allowed(problem: Core, choice: Choice) -> bool:
    return bool((used(problem, choice) <= problem.room).all()) and math.isfinite(value(problem, choice))
