"""``autopar verify build``: shows that a compiled program computes what the sequential model computes.

On every rank the program, on rank 0 also the sequential model, is trained from the same initial values over the same
batches: with SGD and momentum and with AdamW in float64, and with SGD in float32. Losses of all steps, every gradient
of the last one, and all parameters and buffers afterwards are compared. The difference of a tensor is relative to its
largest element, or to a ten-thousandth of the largest in all tensors where that is more (a gradient that is zero but for
rounding has no digits to compare). In float64, casts to float32 inside the model are left out on both sides.

Before that, all that a step of the program communicates is put to the adjoint test (`adjoint_program`).

Two runs may differ by more than rounding where the model magnifies it: at a kink, where one ReLU whose operand is zero
up to rounding passes a gradient in one run and none in the other; or where AdamW normalises a gradient that is zero but
for rounding, such as that of a bias before a batch norm. Where a case exceeds its tolerance, the sequential model is
therefore trained again, a few times, from parameters changed by some roundings; twice the most that this does to it is
allowed as well, and said.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.runtime import adjoint_program, failure, job
from autopar.runtime.adjoint_program import Communication
from autopar.runtime.adjoints import TOLERANCE
from autopar.runtime.description import dtype_name
from autopar.runtime.job import Job
from autopar.runtime.main import share_cores
from autopar.runtime.program import Program
from autopar.runtime.progress import show
from autopar.runtime.session import Parallel
from autopar.runtime.together import agree, together
from autopar.runtime.widen import Widened

FLOOR = 1e-4  # of the largest tensor: a gradient that cancels to zero keeps the rounding of its terms, and is no finer
DRAWS, ROUNDINGS = 5, 8  # changes of the parameters that are tried, and how large they are, in roundings of the type
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """An optimizer and a precision, and how far the two may differ."""

    name: str
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    dtype: torch.dtype
    tolerance: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What was compared in which case, the largest relative difference, where, and what is allowed."""

    case: str
    what: str
    relative: float
    worst: str
    tolerance: float


def _momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


CASES = (
    Case("SGD with momentum", _momentum, torch.float64, 1e-10),
    Case("AdamW", _adamw, torch.float64, 1e-10),
    Case("SGD with momentum", _momentum, torch.float32, 1e-4),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify the folder that the command line names. A difference ends the job with status 1."""
    parser = argparse.ArgumentParser(prog="autopar verify")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adjoint", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    path = given.folder / "program.py"
    program: Program = runpy.run_path(str(path), run_name="program")["PROGRAM"]
    comm = program.grid.comm
    with failure.reported(comm):
        share_cores(comm)
        opened = job.open_job(program, path, given.seed)
        for note in opened.notes if not given.json else ():
            show(comm.rank, f"note: {note}")
        sent = adjoint_program.examine_program(opened, str(path), given.seed)
        if not given.json:
            for line in adjoint_program.lines(sent, None if given.verbose else adjoint_program.SHOWN):
                show(comm.rank, line)
        found = [] if given.adjoint else _compared(opened, given)
        if given.json:
            show(comm.rank, json.dumps([asdict(one) for one in found] + [_row(one) for one in sent]))
        agree(comm, "verification", _objection(opened, found, sent))


def _compared(opened: Job, given: argparse.Namespace) -> list[Difference]:
    """The differences of all cases, each printed as soon as it is known. Collective."""
    _refuse_random(opened, given.seed)
    found: list[Difference] = []
    for case in CASES:
        found += verify(opened, case, given.steps, given.seed)
        if not given.json:
            for one in found[-3:]:
                show(opened.program.grid.comm.rank, _line(one))
    return found


def verify(opened: Job, case: Case, steps: int, seed: int) -> list[Difference]:
    """Train both and compare. Collective; rank 0's differences, on every rank."""
    comm = opened.program.grid.comm
    with together(comm, "reading the batches"):
        batches = [job.cast(batch, case.dtype) for batch in islice(job.batches(opened), steps)]
    parallel = Parallel(opened.program, opened.description, job.values(opened, seed), case.dtype)
    losses = _train(parallel, batches, case)
    gradients, state = parallel.full_gradients(), parallel.full_state_dict()
    parallel.free()
    found: list[Difference] = []
    with together(comm, "training the sequential model"):
        if comm.rank == 0:
            model = job.sequential(opened, seed).to(case.dtype).train()
            expected = _train(model, batches, case)
            wanted = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            held = {name: one for name, one in model.state_dict().items() if name in state}
            pairs = (("losses", losses, expected), ("gradients", gradients, wanted), ("state", state, held))
            found = [
                Difference(_title(case), what, *compare(mine, other), case.tolerance) for what, mine, other in pairs
            ]
            if any(one.relative > one.tolerance for one in found):
                kinks = _sensitivity(opened, case, batches, seed, [other for _, _, other in pairs])
                found = [replace(one, tolerance=max(one.tolerance, 2 * k)) for one, k in zip(found, kinks, strict=True)]
    every = comm.gather_objects([[one.case, one.what, str(one.relative), one.worst, one.tolerance] for one in found])
    rows: list[tuple[str, str, str, str, float]] = every[0]  # type: ignore[assignment]
    return [
        Difference(name, what, float(relative), worst, tolerance) for name, what, relative, worst, tolerance in rows
    ]


def _refuse_random(opened: Job, seed: int) -> None:
    """Raise ConfigError, on all ranks, for a model that draws random numbers as it trains. Collective."""
    with together(opened.program.grid.comm, "looking for randomness in the model"):
        if opened.program.grid.comm.rank == 0:
            model = job.sequential(opened, seed).double().train()
            batch = job.cast(next(job.batches(opened)), torch.float64)
            with torch.no_grad(), Widened():
                losses = [float(job.loss_of(job.call(model, batch))) for _ in range(2)]
            if losses[0] != losses[1]:
                given = f"the loss of one batch is {losses[0]:.9g} and then {losses[1]:.9g}"
                rule = (
                    "a comparison needs a model that computes the same twice; this one draws random numbers (dropout?)"
                )
                raise ConfigError(
                    refusal(str(opened.folder), given, rule, fix="set its dropout to 0 and compile again")
                )


def _sensitivity(
    opened: Job, case: Case, batches: Sequence[job.Inputs], seed: int, expected: Sequence[State]
) -> list[float]:
    """How far losses, gradients and state of the sequential model move when its parameters change by some roundings."""
    moved = [0.0 for _ in expected]
    draw = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        model = job.sequential(opened, seed).to(case.dtype).train()
        with torch.no_grad():
            for one in model.parameters():
                one.mul_(
                    1 + ROUNDINGS * torch.finfo(one.dtype).eps * torch.randn(one.shape, generator=draw, dtype=one.dtype)
                )
        losses = _train(model, batches, case)
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        state = {name: one for name, one in model.state_dict().items() if name in expected[2]}
        for i, (mine, other) in enumerate(zip((losses, gradients, state), expected, strict=True)):
            moved[i] = max(moved[i], compare(mine, other)[0])
    return moved


def compare(found: State, expected: State) -> tuple[float, str]:
    """The largest relative difference, and the name of the tensor where it is; infinite for one that only one has."""
    missing = sorted(set(found) ^ set(expected))
    if missing:
        return float("inf"), missing[0]
    largest = max((_largest(one) for one in expected.values()), default=0.0)
    worst = (0.0, "")
    for name, other in expected.items():
        scale = max(_largest(other), FLOOR * largest) or 1.0
        difference = _largest(found[name].double() - other.double()) / scale
        if math.isnan(difference):
            return difference, name
        worst = max(worst, (difference, name), key=lambda pair: pair[0])
    return worst


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0


def _train(model: nn.Module, batches: Sequence[job.Inputs], case: Case) -> dict[str, Tensor]:
    optimizer = case.optimizer(list(model.parameters()))
    losses = {}
    for step, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        with Widened() if case.dtype == torch.float64 else nullcontext():
            loss = job.loss_of(job.call(model, batch))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[f"step {step}"] = loss.detach()
    return losses


def _title(case: Case) -> str:
    return f"{case.name}, {dtype_name(case.dtype)}"


def _line(one: Difference) -> str:
    verdict = "ok    " if one.relative <= one.tolerance else "DIFFER"
    where = f"  at {one.worst}" if one.worst else ""
    usual = next(case.tolerance for case in CASES if _title(case) == one.case)
    if one.tolerance > usual:
        reason = f"twice what the sequential model moves when its parameters change by {ROUNDINGS} roundings"
        where += f"  (more than {usual:.0e}: {reason})"
    return f"{verdict} {one.case:<28} {one.what:<10} {one.relative:.1e} of {one.tolerance:.0e} allowed{where}"


def _row(one: Communication) -> dict[str, object]:
    """A communication as JSON: what a difference has, and where in the program it is."""
    shared = {"case": "adjoint test", "what": one.primitive, "worst": one.name, "tolerance": TOLERANCE}
    return shared | asdict(one)


def _objection(opened: Job, found: Sequence[Difference], sent: Sequence[Communication]) -> ProgramMismatch | None:
    wrong = [one for one in sent if not one.relative <= TOLERANCE]
    bad = [f"adjoint test: {one.name}: {one.relative:.1e} of {TOLERANCE:.0e} allowed" for one in wrong]
    bad += [_line(one) for one in found if not one.relative <= one.tolerance]
    if not bad:
        return None
    given, rule = (
        "the program computes something else",
        "loss, gradients, parameters and buffers equal the sequential model's",
    )
    if wrong:
        given = "backward is not the adjoint of forward"
        rule = "of every communication F, <Fx, y> = <x, F*y>"
    fix = "if program.py or the model file was edited, compile again; otherwise this is a defect of autopar: please report it"
    return ProgramMismatch(refusal(str(opened.folder), given, rule, bad, fix))


if __name__ == "__main__":
    main(sys.argv[1:])
