"""What `verify` trains: a program, or the model that it was made of, from the same values over the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import DrawnTensor as Drawing
from autopar.runtime.grid.counter_rng import Draws, drawing
from autopar.runtime.parameters.precision import module_in_precision
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.verification.force_float64 import ForceFloat64, as_written

ROUNDINGS = 8  # how large a change of a parameter is, in roundings of its type
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """An optimizer and a precision, and how far the two may differ."""

    name: str
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    dtype: torch.dtype
    tolerance: float


@dataclass(frozen=True, slots=True)
class Trained:
    """Losses of all steps, gradients of the last one, all parameters and buffers after it, and what random tensors it drew."""

    losses: State
    gradients: State
    state: State
    drawn: tuple[Drawing, ...]

    def compared(self) -> tuple[tuple[str, State], ...]:
        """What is compared, each with what it is called."""
        return ("losses", self.losses), ("gradients", self.gradients), ("state", self.state)


def _momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


CASES = (
    TrainingCase("SGD with momentum", _momentum, torch.float64, 1e-10),
    TrainingCase("AdamW", _adamw, torch.float64, 1e-10),
    TrainingCase("SGD with momentum", _momentum, torch.float32, 1e-4),
)


def program_trained(
    opened: CompiledJob, case: TrainingCase, batches: Sequence[compiled_job.Inputs], seed: int
) -> Trained:
    """The program, trained. Collective; whole tensors, on every rank."""
    values = compiled_job.values(opened, seed)
    values = as_written(values) if case.dtype == torch.float64 else values
    parallel = compiled_job.parallel(opened, seed, case.dtype, values)
    losses, drawn = _train(parallel, batches, case, seed, opened.description.loss)
    trained = Trained(losses, parallel.full_gradients(), parallel.full_state_dict(), drawn)
    parallel.free()
    return trained


def model_trained(
    opened: CompiledJob,
    case: TrainingCase,
    batches: Sequence[compiled_job.Inputs],
    seed: int,
    names: Sequence[str],
    change: Callable[[nn.Module], None] = lambda model: None,
) -> Trained:
    """The sequential model, changed and trained; of its state what is named."""
    model = module_in_precision(compiled_job.sequential(opened, seed), case.dtype)
    change(model)
    losses, drawn = _train(model, batches, case, seed, opened.description.loss)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    state = {name: tensor for name, tensor in model.state_dict().items() if name in names}
    return Trained(losses, gradients, state, drawn)


def nudge(model: nn.Module, draw: torch.Generator, rounding: float = 0.0) -> None:
    """Change every parameter by some roundings of its type, or by one of the narrowest that the model computes in."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            parameter.mul_(1 + max(ROUNDINGS * torch.finfo(parameter.dtype).eps, rounding) * noise)


def _train(
    model: nn.Module, batches: Sequence[compiled_job.Inputs], case: TrainingCase, seed: int, path: str
) -> tuple[dict[str, Tensor], tuple[Drawing, ...]]:
    """The losses of the steps, and what random tensors the last one drew; the model itself draws those of the program."""
    drawn: tuple[Drawing, ...] = ()
    optimizer = case.optimizer(list(model.parameters()))
    losses = {}
    for step, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        with (
            ForceFloat64(not isinstance(model, Parallel)) if case.dtype == torch.float64 else nullcontext(),
            _numbers_of_program(model, seed, step) as draws,
        ):
            loss = compiled_job.loss_of(compiled_job.call(model, batch), path)
            drawn = model.drawn if isinstance(model, Parallel) else tuple(draws.drawn)
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[f"step {step}"] = loss.detach()
    return losses, drawn


@contextmanager
def _numbers_of_program(model: nn.Module, seed: int, step: int) -> Iterator[Draws]:
    """A step in which the model draws what the program draws by itself."""
    if isinstance(model, Parallel):
        yield Draws(seed)
    else:
        with drawing(seed, step) as draws, ProgramRandom():
            yield draws
