"""The oracle: tries every combination of strategies. It shares no code with the solvers that it judges."""

from __future__ import annotations

import math
import time

import numpy as np

from autopar.errors import PlanError, refusal
from autopar.partitioner.problem import NoChoice, Problem, Solution, check, evaluate, fits

MOST_COMBINATIONS = 1_000_000


def solve_exhaustively(problem: Problem, most: int = MOST_COMBINATIONS) -> Solution:
    """The cheapest choice that meets the limit, the first one where several are. Memory grows with the combinations.

    Raises PlanError for more than `most` combinations, NoChoice where none meets the limit.
    """
    began = time.perf_counter()
    check(problem)
    sizes = [node.costs.size for node in problem.nodes]
    if math.prod(sizes) > most:
        raise PlanError(
            refusal(
                "solver exhaustive",
                f"{math.prod(sizes)} combinations of strategies",
                f"at most {most} are tried one by one",
                fix="use --solver auto",
            )
        )
    digits = np.unravel_index(np.arange(math.prod(sizes)), sizes) if sizes else ()
    cost, peak = np.zeros(math.prod(sizes)), np.zeros(math.prod(sizes))
    for node, digit in zip(problem.nodes, digits, strict=True):
        cost += node.costs[digit]
    for edge in problem.edges:
        cost += edge.costs[digits[edge.a], digits[edge.b]]
    for moment in {node.start for node in problem.nodes}:
        held = np.zeros_like(peak)
        for node, digit in zip(problem.nodes, digits, strict=True):
            if node.start <= moment < node.stop:
                held += node.memory[digit]
        np.maximum(peak, held, out=peak)
    allowed = np.isfinite(cost)
    if not allowed.any():
        raise NoChoice("the forbidden pairs leave no choice", problem.limit, None)
    least = float(peak[allowed].min())
    if not fits(least, problem.limit):
        raise NoChoice(f"no choice needs less memory than {least:g}", problem.limit, least)
    cost[~allowed | np.array([not fits(held, problem.limit) for held in peak])] = np.inf
    best = int(np.argmin(cost))
    choice = tuple(int(digit[best]) for digit in digits)
    value, held_at_most = evaluate(problem, choice)
    return Solution(choice, value, value, "exhaustive", time.perf_counter() - began, held_at_most)
