"""``autopar verify build``: shows that a compiled program computes what the sequential model computes.

On every rank the program, on rank 0 also the sequential model, is trained from the same initial values over the same
batches: with SGD and momentum and with AdamW in float64, and with SGD in float32. Losses of all steps, every gradient
of the last one, and all parameters and buffers afterwards are compared. The difference of a tensor is relative to its
largest element, or to a ten-thousandth of the largest in all tensors where that is more (a gradient that is zero but for
rounding has no digits to compare). In float64, casts to narrower types inside the model are left out on both sides.

Dropout stays on: the model is given the random numbers of the program (`drawn`), which go by their place in the whole
tensor and not by the ranks. A model that draws otherwise than the program is refused, and not called different.

Before that, all that a step of the program communicates is put to the adjoint test (`program_adjoints`).

Two runs may differ by more than rounding where the model magnifies it: at a kink, where one ReLU whose operand is zero
up to rounding passes a gradient in one run and none in the other; or where AdamW normalises a gradient that is zero but
for rounding, such as that of a bias before a batch norm. Where a case exceeds its tolerance, the sequential model is
therefore trained again, a few times, from parameters changed by some roundings, or by one of bfloat16 or float16 where it
computes in these. A float64 case is besides run in float32, by model and program, whose roundings are 2^29 times as large.
Twice the most that this does, the last divided by 2^29, is allowed as well, and said. What is computed wrongly is so in
every type, and is no more allowed for it.

After that a smaller batch, evaluation, outputs and a step by parts are compared (`verify_evaluation`, `verify_parts`).
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.runtime.diagnostics import call_site, failure
from autopar.runtime.diagnostics.collective_errors import agree, together
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import DrawnTensor as Drawing
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.process import load_optimizers, share_cores
from autopar.runtime.program.plan_reader import dtype_name
from autopar.runtime.program.program import Program
from autopar.runtime.progress import show
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.transport.base import Comm
from autopar.runtime.verification import program_adjoints, verify_evaluation, verify_parts
from autopar.runtime.verification.adjoint_test import TOLERANCE
from autopar.runtime.verification.force_float64 import ForceFloat64, NarrowestDtype
from autopar.runtime.verification.program_adjoints import Communication
from autopar.runtime.verification.trained import (
    CASES,
    ROUNDINGS,
    State,
    Trained,
    TrainingCase,
    model_trained,
    nudge,
    program_trained,
)
from autopar.runtime.verification.verify_evaluation import NamedTensors

CALL_SITE = call_site.PROGRAM
FLOOR = 1e-4  # of the largest tensor: a gradient that cancels to zero keeps the rounding of its terms, and is no finer
DRAWS = 5  # changes of the parameters that are tried


@dataclass(frozen=True, slots=True)
class Deviation:
    """What was compared in which case, the largest relative difference, where, and what is allowed."""

    case: str
    what: str
    relative: float
    worst: str
    tolerance: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify the folder that the command line names. A difference ends the job with status 1."""
    parser = argparse.ArgumentParser(prog="autopar verify")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adjoint", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    path = options.folder / "program.py"
    program: Program = runpy.run_path(str(path), run_name="program")["PROGRAM"]
    comm = program.grid.comm
    with failure.reported(comm):
        load_optimizers()
        share_cores(comm)
        opened = compiled_job.open_job(program, path, options.seed)
        for note in opened.notes if not options.json else ():
            show(comm.rank, f"note: {note}")
        sent = program_adjoints.examine_program(opened, str(path), options.seed)
        if not options.json:
            for line in program_adjoints.lines(sent, None if options.verbose else program_adjoints.SHOWN):
                show(comm.rank, line)
        differences = [] if options.adjoint else _compared(opened, options)
        if options.json:
            show(comm.rank, json.dumps([asdict(row) for row in differences] + [_row(row) for row in sent]))
        agree(comm, "verification", _objection(opened, differences, sent))


def _compared(opened: CompiledJob, options: argparse.Namespace) -> list[Deviation]:
    """The differences of all cases, each printed as soon as it is known. Collective."""
    parts = verify_parts.first_parts(opened)
    drawn = _refuse_random(opened, options.seed)
    if drawn and not options.json:
        comm = opened.program.grid.comm
        show(comm.rank, f"note: the model draws {drawn} random tensors in a step; here it draws the program's numbers")
    differences: list[Deviation] = []
    for case in CASES:
        differences += verify(opened, case, options.steps, options.seed)
        if not options.json:
            for difference in differences[-3:]:
                show(opened.program.grid.comm.rank, _line(difference))
    used = _used(opened, options.seed, parts)
    for difference in used if not options.json else ():
        show(opened.program.grid.comm.rank, _line(difference))
    return differences + used


def _used(opened: CompiledJob, seed: int, parts: compiled_job.Inputs | None = None) -> list[Deviation]:
    """What is compared beside training (`verify_evaluation`), in float64; `parts` are those of the first batch. Collective."""
    with together(opened.program.grid.comm, "reading the batches"):
        batch = compiled_job.cast(next(compiled_job.batches(opened)), torch.float64)
    mine = verify_evaluation.of_program(opened, batch, seed)
    differences = _beside(opened, mine, partial(verify_evaluation.of_model, opened, batch, seed), seed)
    if parts is not None:
        mine = verify_evaluation.of_parts(opened, compiled_job.cast(parts, torch.float64), seed)
        differences += _beside(opened, mine, partial(verify_evaluation.of_whole, opened, batch, seed), seed)
    return differences


def _beside(opened: CompiledJob, mine: NamedTensors, other: Callable[..., NamedTensors], seed: int) -> list[Deviation]:
    """What the program has computed beside what the model computes, which `other` runs on rank 0. Collective."""
    comm, tolerance = opened.program.grid.comm, CASES[0].tolerance
    differences: list[Deviation] = []
    with together(comm, "running the sequential model"):
        if comm.rank == 0:
            model = other()
            differences = [
                Deviation(f"{what}, float64", "values", *compare(mine[what], model[what]), tolerance) for what in model
            ]
            if any(row.relative > tolerance for row in differences):
                draw = torch.Generator().manual_seed(seed)
                nudged = [other(partial(nudge, draw=draw)) for _ in range(DRAWS)]
                moved = [max(compare(one[what], model[what])[0] for one in nudged) for what in model]
                differences = _loosened(differences, moved)
    return _shared(comm, differences)


def verify(opened: CompiledJob, case: TrainingCase, steps: int, seed: int) -> list[Deviation]:
    """Train both and compare. Collective; rank 0's differences, on every rank."""
    comm = opened.program.grid.comm
    with together(comm, "reading the batches"):
        batches = [compiled_job.cast(batch, case.dtype) for batch in islice(compiled_job.batches(opened), steps)]
    mine = program_trained(opened, case, batches, seed)
    differences: list[Deviation] = []
    with together(comm, "training the sequential model"):
        if comm.rank == 0:
            with NarrowestDtype() as seen:
                model = model_trained(opened, case, batches, seed, tuple(mine.state))
            _same_draws(opened, mine.drawn, model.drawn)
            differences = [
                Deviation(_title(case), what, *compare(own, other), case.tolerance)
                for (what, own), (_, other) in zip(mine.compared(), model.compared(), strict=True)
            ]
    differences = _shared(comm, differences)
    if all(row.relative <= row.tolerance for row in differences):
        return differences
    moved = _own_rounding(opened, case, batches, seed, mine)
    with together(comm, "looking how far rounding moves the sequential model"):
        if comm.rank == 0:
            for changed in _moved(opened, case, batches, seed, model, seen.rounding):
                moved = [max(pair) for pair in zip(moved, changed, strict=True)]
            differences = _loosened(differences, moved)
    return _shared(comm, differences)


def _loosened(differences: Sequence[Deviation], moved: Sequence[float]) -> list[Deviation]:
    """With tolerances of at least twice what rounding moves."""
    return [replace(row, tolerance=max(row.tolerance, 2 * most)) for row, most in zip(differences, moved, strict=True)]


def _own_rounding(
    opened: CompiledJob, case: TrainingCase, batches: Sequence[compiled_job.Inputs], seed: int, mine: Trained
) -> list[float]:
    """How far rounding moves the program: in float64 by what the roundings of float32 do to it, in proportion. Collective."""
    if case.dtype != torch.float64:
        return [0.0 for _ in mine.compared()]
    return _in_proportion(program_trained(opened, *_coarse(case, batches), seed), mine)


def _moved(
    opened: CompiledJob,
    case: TrainingCase,
    batches: Sequence[compiled_job.Inputs],
    seed: int,
    model: Trained,
    rounding: float,
) -> Iterator[list[float]]:
    """How far rounding moves the sequential model: its parameters changed by some, and in float64 those of float32."""
    draw, names = torch.Generator().manual_seed(seed), tuple(model.state)
    for _ in range(DRAWS):
        change = partial(nudge, draw=draw, rounding=rounding)
        yield _apart(model_trained(opened, case, batches, seed, names, change), model)
    if case.dtype == torch.float64:
        yield _in_proportion(model_trained(opened, *_coarse(case, batches), seed, names), model)


def _coarse(
    case: TrainingCase, batches: Sequence[compiled_job.Inputs]
) -> tuple[TrainingCase, list[compiled_job.Inputs]]:
    return replace(case, dtype=torch.float32), [compiled_job.cast(batch, torch.float32) for batch in batches]


def _in_proportion(coarse: Trained, fine: Trained) -> list[float]:
    """What the roundings of float64 do, from what those of float32 do; where these leave no digit, one digit's worth."""
    share = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return [share * min(size, 1.0) for size in _apart(coarse, fine)]


def _apart(first: Trained, second: Trained) -> list[float]:
    """The largest differences of losses, gradients and state; 0 for what is not finite, and so no measure."""
    pairs = zip(first.compared(), second.compared(), strict=True)
    sizes = [compare(mine, theirs)[0] for (_, mine), (_, theirs) in pairs]
    return [size if math.isfinite(size) else 0.0 for size in sizes]


def _shared(comm: Comm, compared: Sequence[Deviation]) -> list[Deviation]:
    """Rank 0's differences, on every rank. Collective."""
    every = comm.gather_objects([[row.case, row.what, str(row.relative), row.worst, row.tolerance] for row in compared])
    rows: list[tuple[str, str, str, str, float]] = every[0]  # type: ignore[assignment]
    return [Deviation(name, what, float(relative), worst, tolerance) for name, what, relative, worst, tolerance in rows]


def _refuse_random(opened: CompiledJob, seed: int) -> int:
    """Raise ConfigError, on all ranks, for a model that is random even where its random numbers are given. Collective.

    Returns, on rank 0, how many random tensors the model draws in a step.
    """
    drawn = 0
    with together(opened.program.grid.comm, "looking for randomness in the model"):
        if opened.program.grid.comm.rank == 0:
            model = module_in_precision(compiled_job.sequential(opened, seed), torch.float64)
            batch = compiled_job.cast(next(compiled_job.batches(opened)), torch.float64)
            losses = []
            for _ in range(2):
                with torch.no_grad(), ForceFloat64(True), drawing(seed, 1) as draws, ProgramRandom():
                    losses.append(float(compiled_job.loss_of(compiled_job.call(model, batch), opened.description.loss)))
                drawn = len(draws.drawn)
            if losses[0] != losses[1]:
                problem = f"the loss of one batch is {losses[0]:.9g} and then {losses[1]:.9g}"
                rule = (
                    "a comparison needs a model that computes the same twice where its random numbers are the same; "
                    "this one changes for another reason (a buffer that counts calls, Python's random?)"
                )
                fix = "make it compute the same again, and compile again"
                raise ConfigError(refusal(str(opened.folder), problem, rule, fix=fix))
    return drawn


def _same_draws(opened: CompiledJob, mine: Sequence[Drawing], others: Sequence[Drawing]) -> None:
    """Raise ConfigError where program and model do not draw the same random tensors in the same order."""
    if list(mine) != list(others):
        place = next(i for i in range(len(mine) + len(others)) if list(mine[i : i + 1]) != list(others[i : i + 1]))
        said = [
            f"{who}: {f'{drawn[place][0]} {drawn[place][1]}' if place < len(drawn) else 'nothing'}"
            for who, drawn in (("the program", mine), ("the model", others))
        ]
        rule = "to be compared, both draw the same random tensors in the same order"
        fix = "set the probability of what the model draws and does not use to 0"
        raise ConfigError(refusal(str(opened.folder), f"random tensor {place + 1} of a step differs", rule, said, fix))


def compare(state: State, expected: State) -> tuple[float, str]:
    """The largest relative difference, and the name of the tensor where it is; infinite for one that only one has."""
    missing = sorted(set(state) ^ set(expected))
    if missing:
        return float("inf"), missing[0]
    largest = max((_largest(tensor) for tensor in expected.values()), default=0.0)
    worst = (0.0, "")
    for name, other in expected.items():
        scale = max(_largest(other), FLOOR * largest) or 1.0
        difference = _difference(_wide(state[name]), _wide(other)) / scale
        if math.isnan(difference):
            return difference, name
        worst = max(worst, (difference, name), key=lambda pair: pair[0])
    return worst


def _largest(tensor: Tensor) -> float:
    """The largest finite magnitude: bounds that are infinite say nothing of the size of the rest."""
    sizes = _wide(tensor).abs()
    return float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0


def _difference(values: Tensor, expected: Tensor) -> float:
    """The largest difference; of infinities that agree there is none, of others it is infinite or NaN."""
    apart = (values - expected).abs().masked_fill(values == expected, 0.0)
    return float(apart.max()) if apart.numel() else 0.0


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _title(case: TrainingCase) -> str:
    return f"{case.name}, {dtype_name(case.dtype)}"


def _line(row: Deviation) -> str:
    verdict = "ok    " if row.relative <= row.tolerance else "DIFFER"
    where = f"  at {row.worst}" if row.worst else ""
    usual = next((case.tolerance for case in CASES if _title(case) == row.case), CASES[0].tolerance)
    if row.tolerance > usual:
        reason = f"twice what rounding does: {ROUNDINGS} roundings of the model's parameters, or those of float32 in proportion"
        where += f"  (more than {usual:.0e}: {reason})"
    return f"{verdict} {row.case:<28} {row.what:<10} {row.relative:.1e} of {row.tolerance:.0e} allowed{where}"


def _row(tested: Communication) -> dict[str, object]:
    """A communication as JSON: what a difference has, and where in the program it is."""
    shared = {"case": "adjoint test", "what": tested.primitive, "worst": tested.name, "tolerance": TOLERANCE}
    return shared | asdict(tested)


def _objection(
    opened: CompiledJob, differences: Sequence[Deviation], sent: Sequence[Communication]
) -> ProgramMismatch | None:
    wrong = [call for call in sent if not call.relative <= TOLERANCE]
    bad = [f"adjoint test: {call.name}: {call.relative:.1e} of {TOLERANCE:.0e} allowed" for call in wrong]
    bad += [_line(row) for row in differences if not row.relative <= row.tolerance]
    if not bad:
        return None
    problem, rule = (
        "the program computes something else",
        "loss, gradients, parameters and buffers equal the sequential model's",
    )
    if wrong:
        problem = "backward is not the adjoint of forward"
        rule = "of every communication F, <Fx, y> = <x, F*y>"
    fix = "if program.py or the model file was edited, compile again; otherwise this is a defect of autopar: please report it"
    return ProgramMismatch(refusal(str(opened.folder), problem, rule, bad, fix))


if __name__ == "__main__":
    main(sys.argv[1:])
