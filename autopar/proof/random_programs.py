"""Random models compiled under drawn strategies, and run beside the sequential model.

    of = Case.of(drawn_model(seed), "data=2")     captured and priced once
    of.differs(draw)                              one drawn strategy and cut: where loss or gradients differ, or nothing

Every call takes one of the choices that its rule allows, as long as the conversions between them exist, whatever they cost: one of
those that it has taken least so far, so that every letter has its turn. Loss and the gradients of all parameters are compared in
float64. What a model magnifies (the columns of a matrix that are equal but for rounding, decomposed) is found by changing its
parameters by some roundings, and allowed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopar.capture import capture
from autopar.codegen.memory_footprint import Footprint
from autopar.divided_model import DividedModel
from autopar.emission import emitted
from autopar.errors import ConfigError
from autopar.ir.grid import GridShape
from autopar.ir.machine import load as load_machine
from autopar.ir.plan import Options
from autopar.ir.plan_file import to_json
from autopar.partitioner.formulation.priced_problem import PricedProblem, build
from autopar.partitioner.problem import Solution, evaluate
from autopar.planning.candidate import candidate_of
from autopar.planning.microbatch_search import MicrobatchCount
from autopar.proof.random_model import Model, doubled
from autopar.proof.random_strategies import Strategies
from autopar.runtime import simulate
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel
from autopar.subject import Subject

TOLERANCE = 1e-10  # allowed, relative
NUDGES, ROUNDINGS, MARGIN = 3, 4 * 2.0**-52, 10  # changes of the parameters, and how much of what they do is allowed
OPTIONS = Options(None, "auto", "sgd", (), (), None, 60.0, ())
Cuts = tuple[tuple[float, ...] | None, ...]  # of every axis
Step = tuple[Tensor, dict[str, Tensor]]  # its loss and gradients
NOTHING_HELD = Footprint((), ("forward",))
CUTS: dict[int, Cuts] = {
    2: (None, (0.0, 0.3, 1.0), (0.0, 0.7, 1.0), (0.0, 0.0, 1.0)),
    3: (None, (0.0, 0.5, 0.5, 1.0), (0.0, 0.2, 0.6, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model itself gives in float64, and by how much that moves when its parameters change by some roundings."""

    loss: Tensor
    gradients: Mapping[str, Tensor]
    moved: Mapping[str, float]  # the loss has no name


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a grid, captured and priced. Nobody asks what its ranks hold, and no memory is walked."""

    model: Model
    grid: GridShape
    subject: Subject
    built: PricedProblem
    expected: Expected
    strategies: Strategies
    division: DividedModel | None = None

    @staticmethod
    def of(model: Model, grids: Sequence[str], microbatches: int = 1) -> list[Case]:
        """One case per grid. Raises CaptureError, and ConfigError where the batch is not to be divided."""
        with doubled():
            captured = capture(model.module, model.inputs, name="drawn")
            subject = Subject.of(model.module, captured)
            division = subject.divided(MicrobatchCount(microbatches), OPTIONS) if microbatches > 1 else None
            annotated = subject.annotated if division is None else division.annotated
            expected, machine = expected_of(model), load_machine("cpu")
            built = [
                build(annotated, shape, machine, limit=None, optimizer="sgd", gathered=False)
                for shape in map(GridShape.parse, grids)
            ]
        return [
            Case(model, priced.grid, subject, priced, expected, Strategies(priced.problem), division)
            for priced in built
        ]

    def differs(self, draw: random.Random, cuts: int = 1) -> str:
        """One drawn strategy under some drawn cuts, one after the other: what differs and all there is to know, or nothing."""
        choice = self.strategies.drawn(draw)
        if choice is None:
            return ""
        cost, peak = evaluate(self.built.problem, choice)
        candidate = candidate_of(self.built, Solution(choice, cost, 0.0, "drawn", 0.0, peak), "sgd", NOTHING_HELD)
        plan, text = emitted(candidate, self.subject, OPTIONS, division=self.division)
        drawn = [tuple(draw.choice(CUTS[size]) for size in self.grid.sizes) for _ in range(cuts)]
        try:
            with doubled():
                ranks = self._on_ranks(text, to_json(plan), drawn)
        except Exception as error:
            error.add_note(f"{self.model.text}\n{text}\ncuts {drawn}")
            raise
        wrong = {
            f"cuts {cut}: {name}": None
            for steps in ranks
            for cut, step in zip(drawn, steps, strict=True)
            for name in self._compared(*step)
        }
        return "\n".join([*wrong, self.model.text, text]) if wrong else ""

    def _on_ranks(self, text: str, plan: str, drawn: Sequence[Cuts]) -> list[list[Step]]:
        """Loss and whole gradients under all cuts, on every rank."""
        code, description = compile(text, "program.py", "exec"), parse_description(plan, "plan.json")
        known = {name for item in description.parameters for name in (item.name, *item.aliases)}
        values = [
            *(self.subject if self.division is None else self.division).captured.constants.items(),
            *(pair for pair in self.model.parameters.items() if pair[0] in known),
        ]

        def rank() -> list[Step]:
            names: dict[str, Any] = {"__name__": "program"}
            exec(code, names)
            parallel = Parallel(names["PROGRAM"], description, values)
            steps = []
            for cuts in drawn:
                _cut(parallel, cuts)
                parallel.zero_grad()
                loss = parallel(**self.model.inputs)
                loss.backward()
                steps.append((loss.detach(), parallel.full_gradients()))
            parallel.free()
            return steps

        return simulate(self.grid.size, rank, timeout=120.0)

    def _compared(self, loss: Tensor, gradients: Mapping[str, Tensor]) -> list[str]:
        """The names of what differs."""
        expected = self.expected
        allowed = TOLERANCE * max(1.0, abs(float(expected.loss))) + MARGIN * expected.moved[""]
        wrong = [] if abs(float(loss - expected.loss)) <= allowed else ["loss"]
        largest = max((float(grad.abs().max()) for grad in expected.gradients.values() if grad.numel()), default=0.0)
        for name in gradients.keys() | expected.gradients.keys():  # none stands for zeros
            whole = expected.gradients.get(name)
            whole = torch.zeros_like(gradients[name]) if whole is None else whole
            if whole.numel():
                allowed = TOLERANCE * max(float(whole.abs().max()), 1e-3 * largest, 1e-3)
                allowed += MARGIN * expected.moved.get(name, 0.0)
                error = float((gradients.get(name, torch.zeros_like(whole)) - whole).abs().max())
                wrong += [] if error <= allowed else [f"{name} by {error:.1e} of {float(whole.abs().max()):.1e}"]
        return wrong


def _cut(parallel: Parallel, cuts: Cuts) -> None:
    """Cut the axes so, those left out of which the program needs rows on ranks that would have none."""
    for axis, fractions in zip(parallel.grid.axes, cuts, strict=True):
        with suppress(ConfigError):
            parallel.rebalance({axis.name: fractions})


def expected_of(model: Model) -> Expected:
    """Run the model itself, and a few times from parameters that are changed by some roundings."""
    loss, gradients = _stepped(model, 0.0, torch.Generator())
    moved = dict.fromkeys(("", *gradients), 0.0)
    for seed in range(NUDGES):
        nudged, others = _stepped(model, ROUNDINGS, torch.Generator().manual_seed(seed))
        moved[""] = max(moved[""], abs(float(nudged - loss)))
        for name, gradient in gradients.items():
            moved[name] = max(moved[name], float((others[name] - gradient).abs().max())) if gradient.numel() else 0.0
    return Expected(loss, gradients, moved)


def _stepped(model: Model, change: float, draw: torch.Generator) -> Step:
    """Loss and gradients of one step of the model."""
    module = model.module()
    with torch.no_grad():
        for name, value in model.parameters.items():
            noise = torch.randn(value.shape, generator=draw, dtype=value.dtype)
            getattr(module, name).copy_(value * (1 + change * noise))
    loss = module(**model.inputs)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
