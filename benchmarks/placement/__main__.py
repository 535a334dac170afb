"""How far placements are from the optimum: the heuristics and the baselines beside the oracle, on drawn graphs.

    python -m benchmarks.placement [--count 200] [--seed 0] [--schedule auto]

Graphs of 4 to 12 calls on 2 or 3 positions (see `random_problems`). Of each: the optimum by exhaustive search, the heuristics'
makespan and the lower bound, both as a share of the optimum. A baseline counts where pins, bans and memory allow it.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from statistics import mean

from autopar.errors import InfeasiblePlan
from autopar.partitioner.placement.exhaustive import exhaustive
from autopar.partitioner.placement.judging import Judge
from autopar.partitioner.placement.place import compare, place
from benchmarks.options import described
from benchmarks.placement.random_problems import random_problem


@dataclass(frozen=True, slots=True)
class Case:
    """One graph: what each way to place it takes, over the optimum."""

    seed: int
    shares: dict[str, float]
    seconds: dict[str, float]


def case(seed: int, schedule: str) -> Case | None:
    """None where nothing fits the memory, which the heuristics then say as well."""
    problem, most = random_problem(random.Random(seed))
    begin = time.process_time()
    optimum = exhaustive(problem, most, Judge(problem, schedule))
    searched = time.process_time()
    try:
        placement = place(problem, segments_per_position=most, schedule=schedule, tries=0)
    except InfeasiblePlan:
        assert optimum.assignment is None, f"seed {seed}: the heuristics find nothing where there is something"
        return None
    placed = time.process_time()
    assert optimum.proven, f"seed {seed}: the oracle gave up"
    assert placement.bound <= optimum.makespan * (1 + 1e-9), f"seed {seed}: the bound is above the optimum"
    assert optimum.makespan <= placement.makespan * (1 + 1e-9), f"seed {seed}: the heuristics beat the oracle"
    found = {"heuristics": placement, **compare(problem, schedule)}
    shares = {name: each.makespan / optimum.makespan for name, each in found.items() if each is not None}
    seconds = {"oracle": searched - begin, "heuristics": placed - searched}
    return Case(seed, shares | {"lower bound": placement.bound / optimum.makespan}, seconds)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--count", type=int, default=200, help="of graphs (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first of them (0)")
    parser.add_argument("--schedule", default="auto", help="by which makespans are simulated (auto)")
    options = parser.parse_args()
    drawn = [case(seed, options.schedule) for seed in range(options.seed, options.seed + options.count)]
    cases = [each for each in drawn if each is not None]
    print(f"{len(cases)} graphs; nothing fits the memory of {len(drawn) - len(cases)} more")
    print(f"{'over the optimum':18}{'graphs':>8}{'mean':>9}{'worst':>9}{'of seed':>9}{'optimal':>9}")
    for name in dict.fromkeys(name for each in cases for name in each.shares):
        rows = [(each.shares[name] - 1, each.seed) for each in cases if name in each.shares]
        worst, seed = min(rows) if name == "lower bound" else max(rows)
        optimal = sum(abs(share) < 1e-9 for share, _ in rows)
        print(f"{name:18}{len(rows):8}{mean(share for share, _ in rows):9.2%}{worst:9.1%}{seed:9}{optimal:9}")
    for name in ("oracle", "heuristics"):
        print(f"CPU seconds, {name}: {sum(each.seconds[name] for each in cases):.1f}")


if __name__ == "__main__":
    main()
