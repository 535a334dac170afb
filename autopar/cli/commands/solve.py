"""``autopar solve problem.json.gz --time-limit 60``: the partitioner alone, on an instance file of the IOPDDL contest.

The limit is on wall-clock time and includes reading. With ``--json`` one object: ``cost``; ``bound``, below every possible
cost; ``gap``, (cost - bound) / cost; ``method``; ``seconds``, reading included; ``solution``, a list of strategy indices.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

from autopar.cli.option_types import seconds

NAME = "solve"
TEXT = "solve a partition problem from a file"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("problem", help="an instance of the IOPDDL contest, .json or .json.gz")
    limit = "wall-clock time, reading included (60)"
    parser.add_argument("--time-limit", type=seconds, default=60.0, metavar="SECONDS", help=limit)
    solvers = ["auto", "ilp", "search", "exhaustive"]
    parser.add_argument("--solver", default="auto", choices=solvers, help="how the choice is found (auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Read, solve, and print; progress goes to standard error."""
    began = time.perf_counter()
    from rich.console import Console

    from autopar.cli.tables import say
    from autopar.partitioner.contest import read_contest
    from autopar.partitioner.solvers.solve import solve

    with Console(stderr=True, markup=False, highlight=False).status("reading") as status:

        def progress(cost: float, bound: float) -> None:
            elapsed = time.perf_counter() - began
            status.update(f"{elapsed:5.0f} s   cost {_number(cost)}   bound {_number(bound)}   gap {_gap(cost, bound)}")

        problem = read_contest(Path(arguments.problem))
        status.update(f"solving: {len(problem.nodes)} nodes, {len(problem.edges)} edges")
        left = max(arguments.time_limit - (time.perf_counter() - began), 0.01)
        solution = solve(problem, arguments.solver, left, progress)
    spent = time.perf_counter() - began
    if arguments.json:
        facts = {
            "cost": solution.cost,
            "bound": solution.bound,
            "gap": solution.gap,
            "method": solution.method,
            "seconds": spent,
        }
        # JSON has no infinity: a bound that says nothing is null.
        known = {key: None if isinstance(fact, float) and math.isinf(fact) else fact for key, fact in facts.items()}
        print(json.dumps({**known, "solution": list(solution.choice)}))
        return 0
    say(
        f"cost       {_number(solution.cost)}",
        f"bound      {_number(solution.bound)}",
        f"gap        {_gap(solution.cost, solution.bound)}",
        f"method     {solution.method}",
        f"seconds    {spent:.1f}",
    )
    return 0


def _number(cost: float) -> str:
    """Digits in threes, at least nine of them."""
    if math.isinf(cost):
        return "none yet"
    return f"{cost:,.0f}" if abs(cost) >= 1e4 else f"{cost:.9g}"


def _gap(cost: float, bound: float) -> str:
    from autopar.partitioner.problem import relative_gap

    gap = relative_gap(cost, bound) if math.isfinite(cost) and math.isfinite(bound) else math.inf
    return f"{gap:.2%}" if math.isfinite(gap) else "unknown"
