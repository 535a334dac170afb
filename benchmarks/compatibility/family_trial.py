"""One family through the whole compiler: captured once, planned for every grid, compared with the model by `verify`'s code.

Ranks are threads of one process. What is compared are losses, every gradient, and all parameters and buffers after two steps
of SGD with momentum in float64.
"""

from __future__ import annotations

import math
import runpy
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from autopar.compiler import Compiled, compile
from autopar.errors import AutoparError
from autopar.ir.grid import GridShape
from autopar.ir.machine import Link, Machine
from autopar.ir.machine import load as load_machine
from autopar.ir.plan import ModelSource
from autopar.model_file import ModelFile
from autopar.runtime import simulate
from autopar.runtime.program.plan_reader import read_description
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.verification.verify import CASES, Deviation, verify
from benchmarks.compatibility.family_subject import Subject

STEPS = 2


@dataclass(frozen=True, slots=True)
class FamilyOutcome:
    """What became of one family on one grid.

    status    ok | rounding (equal within what rounding does to the model) | DIFFER | REFUSED | CRASH | SLOW | not built
              (the library itself cannot make or run it here: not counted)
    seconds   processor seconds that compiling took
    whole     share of the predicted compute whose operators have no rule
    split     share of the calls that are split over some axis
    message   what was said, or how far numbers are apart
    """

    library: str
    family: str
    grid: str
    status: str
    seconds: float = 0.0
    whole: float = 0.0
    split: float = 0.0
    message: str = ""


def cheap_communication() -> Machine:
    """The machine `cpu` where messages cost next to nothing, so that small models are split, too."""
    cpu = load_machine("cpu")
    return replace(cpu, name="quick", launch_floor=1e-9, intra=Link(1e-9, 1e12))


def attempt(library: str, family: str, make: Callable[[], Subject], grids: Sequence[str]) -> list[FamilyOutcome]:
    """What becomes of a family on every grid."""
    torch.manual_seed(0)
    try:
        subject = make()
    except Exception as error:  # the library's own
        return [FamilyOutcome(library, family, grid, "not built", message=_said(error)) for grid in grids]
    outcomes: list[FamilyOutcome] = []
    compiled: Compiled | None = None
    for grid in grids:
        start = time.process_time()
        outcome = FamilyOutcome(library, family, grid, "ok")
        try:
            compiled = _compiled(subject, grid, family) if compiled is None else compiled.replan(grid=grid)
            outcome = replace(
                outcome, seconds=time.process_time() - start, whole=_whole(compiled), split=_split(compiled)
            )
            outcomes.append(_judged(outcome, _differences(compiled, subject, grid)))
        except AutoparError as error:
            outcomes.append(
                replace(outcome, status="REFUSED", seconds=time.process_time() - start, message=_said(error))
            )
        except Exception as error:  # ours, or torch's under our hands
            message = f"{_said(error)} | {_place(error)}"
            outcomes.append(replace(outcome, status="CRASH", seconds=time.process_time() - start, message=message))
    return outcomes


def _compiled(subject: Subject, grid: str, name: str) -> Compiled:
    source = ModelSource("model.py", "", "model")
    return compile(
        subject.make,
        subject.inputs,
        grid=grid,
        machine=cheap_communication(),
        name=name,
        source=source,
        time_limit=30.0,
    )


def _differences(compiled: Compiled, subject: Subject, grid: str) -> list[Deviation]:
    """What `verify` finds on rank 0."""
    with TemporaryDirectory() as folder:
        path = compiled.save(folder) / "program.py"
        file = ModelFile(path, "model", "", "model", subject.make, lambda: subject.inputs, None, None)

        def rank() -> list[Deviation]:
            program = runpy.run_path(str(path), run_name="program")["PROGRAM"]
            opened = CompiledJob(path.parent, program, read_description(path.parent / "plan.json"), file, ())
            return verify(opened, CASES[0], STEPS, 0)

        return simulate(GridShape.parse(grid).size, rank, timeout=1800.0)[0]


def _judged(outcome: FamilyOutcome, differences: Sequence[Deviation]) -> FamilyOutcome:
    worst = max(differences, key=lambda each: math.inf if math.isnan(each.relative) else each.relative / each.tolerance)
    said = f"{worst.what} {worst.relative:.1e} at {worst.worst}, {worst.tolerance:.1e} allowed"
    if not all(each.relative <= each.tolerance for each in differences):
        return replace(outcome, status="DIFFER", message=said)
    if any(each.relative > CASES[0].tolerance for each in differences):
        return replace(outcome, status="rounding", message=said)
    return outcome


def _whole(compiled: Compiled) -> float:
    seconds = {node.name: node.seconds for node in compiled.plan.nodes}
    bare = sum(seconds[node.name] for node in compiled.plan.nodes if not node.ruled)
    return bare / max(sum(seconds.values()), 1e-30)


def _split(compiled: Compiled) -> float:
    nodes = compiled.plan.nodes
    return sum(any(choice.mode == "split" for choice in node.choices) for node in nodes) / max(len(nodes), 1)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
