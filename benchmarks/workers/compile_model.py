"""Compile one of the benchmark's models: ``python -m benchmarks.workers.compile_model MODEL small|full GRID FOLDER [PIN ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import autopar
from benchmarks.models import batch, seeded
from benchmarks.zoo_models import EVERY


def main(name: str, size: str, grid: str, folder: str, *pins: str) -> None:
    model = EVERY[name](size == "small")
    compiled = autopar.compile(seeded(model), batch(model), grid=grid, pin=pins, optimizer="sgd", name=name)
    compiled.save(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
