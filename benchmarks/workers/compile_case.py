"""Compile a case of benchmarks.rebalance: ``python -m benchmarks.workers.compile_case CASE small|full FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import autopar
from benchmarks.models import batch, seeded
from benchmarks.rebalance.cases import CASES


def main(name: str, size: str, folder: str) -> None:
    case = CASES[name]
    model = case.model(size == "small")
    compiled = autopar.compile(
        seeded(model),
        batch(model),
        grid=case.grid,
        plan=case.plan,
        pin=case.pins,
        optimizer="sgd",
        name=model.name,
        segments=case.segments,
        microbatches=case.microbatches,
    )
    compiled.save(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
