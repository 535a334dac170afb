"""``autopar verify build``: shows that a compiled program computes what the sequential model computes.

On every rank the program, on rank 0 also the sequential model, is trained from the same initial values over the same
batches: with SGD and momentum and with AdamW in float64, and with SGD in float32. Losses of all steps, every gradient
of the last one, and all parameters and buffers afterwards are compared. The difference of a tensor is relative to its
largest element, or to a ten-thousandth of the largest in all tensors where that is more (a gradient that is zero but for
rounding has no digits to compare). In float64, casts to narrower types inside the model are left out on both sides.

Dropout stays on: the model is given the random numbers of the program (`drawn`), which go by their place in the whole
tensor and not by the ranks. A model that draws otherwise than the program is refused, and not called different.

Before that, all that a step of the program communicates is put to the adjoint test (`adjoint_program`).

Two runs may differ by more than rounding where the model magnifies it: at a kink, where one ReLU whose operand is zero
up to rounding passes a gradient in one run and none in the other; or where AdamW normalises a gradient that is zero but
for rounding, such as that of a bias before a batch norm. Where a case exceeds its tolerance, the sequential model is
therefore trained again, a few times, from parameters changed by some roundings, or by one of bfloat16 or float16 where it
computes in these; twice the most that this does to it is allowed as well, and said.

After that a smaller batch, evaluation and outputs are compared (`verify_uses`).
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.runtime import adjoint_program, failure, job, verify_uses
from autopar.runtime.adjoint_program import Communication
from autopar.runtime.adjoints import TOLERANCE
from autopar.runtime.collector import load_optimizers
from autopar.runtime.description import dtype_name
from autopar.runtime.drawn import Drawn
from autopar.runtime.draws import Drawn as Drawing
from autopar.runtime.draws import Draws, drawing
from autopar.runtime.job import Job
from autopar.runtime.main import share_cores
from autopar.runtime.precision import module_in_precision
from autopar.runtime.program import Program
from autopar.runtime.progress import show
from autopar.runtime.session import Parallel
from autopar.runtime.together import agree, together
from autopar.runtime.transport.base import Comm
from autopar.runtime.widen import Narrowest, Widened, as_written

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
        load_optimizers()
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
    drawn = _refuse_random(opened, given.seed)
    if drawn and not given.json:
        comm = opened.program.grid.comm
        show(comm.rank, f"note: the model draws {drawn} random tensors in a step; here it draws the program's numbers")
    found: list[Difference] = []
    for case in CASES:
        found += verify(opened, case, given.steps, given.seed)
        if not given.json:
            for one in found[-3:]:
                show(opened.program.grid.comm.rank, _line(one))
    used = _used(opened, given.seed)
    for one in used if not given.json else ():
        show(opened.program.grid.comm.rank, _line(one))
    return found + used


def _used(opened: Job, seed: int) -> list[Difference]:
    """What is compared beside training (`verify_uses`), in float64. Collective."""
    comm, tolerance = opened.program.grid.comm, CASES[0].tolerance
    with together(comm, "reading the batches"):
        batch = job.cast(next(job.batches(opened)), torch.float64)
    mine = verify_uses.of_program(opened, batch, seed)
    found: list[Difference] = []
    with together(comm, "running the sequential model"):
        if comm.rank == 0:
            model = verify_uses.of_model(opened, batch, seed)
            found = [
                Difference(f"{what}, float64", "values", *compare(mine[what], model[what]), tolerance) for what in model
            ]
            if any(one.relative > tolerance for one in found):
                draw = torch.Generator().manual_seed(seed)
                nudged = [verify_uses.of_model(opened, batch, seed, partial(_nudge, draw=draw)) for _ in range(DRAWS)]
                moved = [max(compare(one[what], model[what])[0] for one in nudged) for what in model]
                found = [
                    replace(one, tolerance=max(tolerance, 2 * most)) for one, most in zip(found, moved, strict=True)
                ]
    return _shared(comm, found)


def _nudge(model: nn.Module, draw: torch.Generator, rounding: float = 0.0) -> None:
    """Change every parameter by some roundings of its type, or by one of the narrowest that the model computes in."""
    with torch.no_grad():
        for one in model.parameters():
            noise = torch.randn(one.shape, generator=draw, dtype=one.dtype)
            one.mul_(1 + max(ROUNDINGS * torch.finfo(one.dtype).eps, rounding) * noise)


def verify(opened: Job, case: Case, steps: int, seed: int) -> list[Difference]:
    """Train both and compare. Collective; rank 0's differences, on every rank."""
    comm = opened.program.grid.comm
    with together(comm, "reading the batches"):
        batches = [job.cast(batch, case.dtype) for batch in islice(job.batches(opened), steps)]
    values = job.values(opened, seed)
    values = as_written(values) if case.dtype == torch.float64 else values
    parallel = job.parallel(opened, seed, case.dtype, values)
    losses, mine = _train(parallel, batches, case, seed, opened.description.loss)
    gradients, state = parallel.full_gradients(), parallel.full_state_dict()
    parallel.free()
    found: list[Difference] = []
    with together(comm, "training the sequential model"):
        if comm.rank == 0:
            model = module_in_precision(job.sequential(opened, seed), case.dtype)
            with Narrowest() as seen:
                expected, others = _train(model, batches, case, seed, opened.description.loss)
            _same_draws(opened, mine, others)
            wanted = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            held = {name: one for name, one in model.state_dict().items() if name in state}
            pairs = (("losses", losses, expected), ("gradients", gradients, wanted), ("state", state, held))
            found = [
                Difference(_title(case), what, *compare(mine, other), case.tolerance) for what, mine, other in pairs
            ]
            if any(one.relative > one.tolerance for one in found):
                kinks = _sensitivity(opened, case, batches, seed, [other for _, _, other in pairs], seen.rounding)
                found = [replace(one, tolerance=max(one.tolerance, 2 * k)) for one, k in zip(found, kinks, strict=True)]
    return _shared(comm, found)


def _shared(comm: Comm, found: Sequence[Difference]) -> list[Difference]:
    """Rank 0's differences, on every rank. Collective."""
    every = comm.gather_objects([[one.case, one.what, str(one.relative), one.worst, one.tolerance] for one in found])
    rows: list[tuple[str, str, str, str, float]] = every[0]  # type: ignore[assignment]
    return [
        Difference(name, what, float(relative), worst, tolerance) for name, what, relative, worst, tolerance in rows
    ]


def _refuse_random(opened: Job, seed: int) -> int:
    """Raise ConfigError, on all ranks, for a model that is random even where its random numbers are given. Collective.

    Returns, on rank 0, how many random tensors the model draws in a step.
    """
    drawn = 0
    with together(opened.program.grid.comm, "looking for randomness in the model"):
        if opened.program.grid.comm.rank == 0:
            model = module_in_precision(job.sequential(opened, seed), torch.float64)
            batch = job.cast(next(job.batches(opened)), torch.float64)
            losses = []
            for _ in range(2):
                with torch.no_grad(), Widened(True), drawing(seed, 1) as draws, Drawn():
                    losses.append(float(job.loss_of(job.call(model, batch), opened.description.loss)))
                drawn = len(draws.made)
            if losses[0] != losses[1]:
                given = f"the loss of one batch is {losses[0]:.9g} and then {losses[1]:.9g}"
                rule = (
                    "a comparison needs a model that computes the same twice where its random numbers are the same; "
                    "this one changes for another reason (a buffer that counts calls, Python's random?)"
                )
                fix = "make it compute the same again, and compile again"
                raise ConfigError(refusal(str(opened.folder), given, rule, fix=fix))
    return drawn


def _same_draws(opened: Job, mine: Sequence[Drawing], others: Sequence[Drawing]) -> None:
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


def _sensitivity(
    opened: Job, case: Case, batches: Sequence[job.Inputs], seed: int, expected: Sequence[State], rounding: float
) -> list[float]:
    """How far losses, gradients and state of the sequential model move when its parameters change by some roundings."""
    moved = [0.0 for _ in expected]
    draw = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        model = module_in_precision(job.sequential(opened, seed), case.dtype)
        _nudge(model, draw, rounding)
        losses, _ = _train(model, batches, case, seed, opened.description.loss)
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
        difference = _difference(_wide(found[name]), _wide(other)) / scale
        if math.isnan(difference):
            return difference, name
        worst = max(worst, (difference, name), key=lambda pair: pair[0])
    return worst


def _largest(tensor: Tensor) -> float:
    """The largest finite magnitude: bounds that are infinite say nothing of the size of the rest."""
    sizes = _wide(tensor).abs()
    return float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference; of infinities that agree there is none, of others it is infinite or NaN."""
    apart = (found - expected).abs().masked_fill(found == expected, 0.0)
    return float(apart.max()) if apart.numel() else 0.0


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _train(
    model: nn.Module, batches: Sequence[job.Inputs], case: Case, seed: int, path: str
) -> tuple[dict[str, Tensor], tuple[Drawing, ...]]:
    """The losses of the steps, and what random tensors the last one drew; the model itself draws those of the program."""
    made: tuple[Drawing, ...] = ()
    optimizer = case.optimizer(list(model.parameters()))
    losses = {}
    for step, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        with (
            Widened(not isinstance(model, Parallel)) if case.dtype == torch.float64 else nullcontext(),
            _numbers_of_program(model, seed, step) as draws,
        ):
            loss = job.loss_of(job.call(model, batch), path)
            made = model.drawn if isinstance(model, Parallel) else tuple(draws.made)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[f"step {step}"] = loss.detach()
    return losses, made


@contextmanager
def _numbers_of_program(model: nn.Module, seed: int, step: int) -> Iterator[Draws]:
    """A step in which the model draws what the program draws by itself."""
    if isinstance(model, Parallel):
        yield Draws(seed)
    else:
        with drawing(seed, step) as draws, Drawn():
            yield draws


def _title(case: Case) -> str:
    return f"{case.name}, {dtype_name(case.dtype)}"


def _line(one: Difference) -> str:
    verdict = "ok    " if one.relative <= one.tolerance else "DIFFER"
    where = f"  at {one.worst}" if one.worst else ""
    usual = next((case.tolerance for case in CASES if _title(case) == one.case), CASES[0].tolerance)
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
