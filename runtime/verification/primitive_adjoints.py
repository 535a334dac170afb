"""What ``autopar verify --adjoint`` runs on every rank: the adjoint test of every primitive over a family of random cases.

The job's ranks make one random grid after another, of some or all of them (the others have nothing to do meanwhile), and
test every primitive there several times. Rank 0 shows how far it is, and a table at the end. A primitive that fails ends the
job with status 1, after all others have been tested too.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autopar.errors import CommError, refusal
from autopar.ir.grid import GridShape
from autopar.jobs.environment import is_terminal
from autopar.runtime.diagnostics import failure
from autopar.runtime.diagnostics.collective_errors import agree
from autopar.runtime.grid.grid import Grid
from autopar.runtime.process import share_cores
from autopar.runtime.progress import Progress, show
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.world import default_world
from autopar.runtime.verification.adjoint_test import TOLERANCE, kind
from autopar.runtime.verification.conversion_cases import FAMILY, random_grids
from autopar.runtime.verification.partition_cases import PARTITION_FAMILY, case_error, draw_case

GRIDS, CASES = 12, 6  # cases per grid and primitive


@dataclass(frozen=True, slots=True)
class PrimitiveVerdict:
    """A primitive, how many cases were tested, the worst relative error, and the case that had it."""

    primitive: str
    source: str
    target: str
    cases: int
    worst: float
    where: str
    tolerance: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Test every primitive on the ranks of this job. A failure ends the job with status 1."""
    parser = argparse.ArgumentParser(prog="autopar verify --adjoint")
    parser.add_argument("--grid", type=GridShape.parse)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    comm = default_world()
    with failure.reported(comm):
        share_cores(comm)
        grids = [options.grid] * GRIDS if options.grid else random_grids(random.Random(options.seed), comm.size, GRIDS)
        verdicts = examine(comm, grids, options.seed, CASES, quiet=options.json)
        if options.json:
            show(comm.rank, json.dumps([asdict(verdict) for verdict in verdicts]))
        elif comm.rank == 0:
            print_table(verdicts, grids)
        agree(comm, "adjoint test", _objection(verdicts))


def examine(
    comm: Comm, grids: Sequence[GridShape], seed: int, cases: int, quiet: bool = True
) -> list[PrimitiveVerdict]:
    """Test every primitive `cases` times on each grid. Collective; rank 0's verdicts, on every rank."""
    worst = {name: (0.0, "") for name in (*FAMILY, *PARTITION_FAMILY)}
    with Progress(len(grids), comm.rank == 0 and not quiet, "grid", lines=4) as progress:
        for number, shape in enumerate(grids):
            for name, (error, where) in _on_grid(comm, shape, f"{seed}.{number}", cases).items():
                worst[name] = max(worst[name], (error, where), key=lambda pair: pair[0])
            progress.done(number + 1, str(shape))
    ends = {name: (kind(tested.source), kind(tested.target)) for name, tested in FAMILY.items()}
    total = cases * len(grids)
    return [
        PrimitiveVerdict(name, *ends.get(name, ("partition", "partition")), total, *worst[name], TOLERANCE)
        for name in worst
    ]


def _on_grid(comm: Comm, shape: GridShape, seed: str, cases: int) -> dict[str, tuple[float, str]]:
    """The worst error of every primitive, and where it was: on a grid of the first ranks, on partitions of any. Collective."""
    part = comm.split(int(comm.rank < shape.size), comm.rank)
    worst: dict[str, tuple[float, str]] = {}
    if comm.rank < shape.size:
        grid = Grid(shape, part)
        for name, tested in FAMILY.items():
            errors = []
            for number in range(cases):
                case = tested.draw(random.Random(f"{seed}.{name}.{number}"), grid)
                where = f"grid {shape}, rank {comm.rank}, operand {list(case.shape)}"
                errors.append((case.error(number), where))
            worst[name] = max(errors, key=lambda pair: pair[0])
        grid.free()
    part.free()
    for name in PARTITION_FAMILY:
        drawn = [draw_case(name, random.Random(f"{seed}.{name}.{number}"), comm.size) for number in range(cases)]
        tested_cases = [(case_error(case, comm, number), str(case)) for number, case in enumerate(drawn)]
        worst[name] = max(tested_cases, key=lambda pair: pair[0])
    every: list[Any] = comm.gather_objects(worst)  # an axis's ranks agree, those of other rows of the grid may not
    return {
        name: max((tuple(own[name]) for own in every if name in own), key=lambda pair: pair[0]) for name in every[0]
    }


def print_table(verdicts: Sequence[PrimitiveVerdict], grids: Sequence[GridShape]) -> None:
    """Print the verdicts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in ("primitive", "from", "to", "cases", "worst error", "verdict"):
        table.add_column(column, justify="right" if column in ("cases", "worst error") else "left")
    for row in verdicts:
        verdict = "ok" if row.worst <= row.tolerance else "FAILS"
        table.add_row(row.primitive, row.source, row.target, str(row.cases), f"{row.worst:.1e}", verdict)
    console = Console(markup=False, highlight=False, force_terminal=is_terminal())
    console.print(table)
    bad = sum(not row.worst <= row.tolerance for row in verdicts)
    verdict = f"{bad} of {len(verdicts)} primitives FAIL" if bad else "every primitive passes"
    names = list(dict.fromkeys(map(str, grids)))
    where = f"grid {names[0]}" if len(names) == 1 else f"{len(names)} grids of up to {max(g.size for g in grids)} ranks"
    rule = f"|<Fx,y> - <x,F*y>| <= {TOLERANCE:.0e} max(|Fx||y|, |x||F*y|) in float64"
    print(f"\n{verdict}: {rule}, {where}", flush=True)


def _objection(verdicts: Sequence[PrimitiveVerdict]) -> CommError | None:
    bad = [f"{row.primitive}: {row.worst:.1e} at {row.where}" for row in verdicts if not row.worst <= row.tolerance]
    if not bad:
        return None
    rule = f"<Fx, y> = <x, F*y>, to {TOLERANCE:.0e} of the norms, and replicas are equal to the bit"
    fix = "try another MPI library, or fewer ranks; if it stays, it is a defect of autopar: please report it"
    return CommError(refusal("adjoint test", f"{len(bad)} of {len(verdicts)} primitives fail it", rule, bad, fix))


if __name__ == "__main__":
    main(sys.argv[1:])
