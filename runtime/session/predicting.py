"""Inference: a model's outputs without its loss, from its inputs without labels.

    out = parallel.predict(image=image)
    out.logits                                       # whole, on every rank that reads it; out.part("logits") is this rank's

A program computes its loss wherever it is compiled for training. What only the loss is made of may be left out: zeros stand for it,
and the loss is not handed out. Which inputs these are, the plan says of every output.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.runtime.data.input_part import InputPart
from autopar.runtime.program.plan_reader import Description
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.held_model import HeldModel
from autopar.runtime.session.inputs import InputBinding
from autopar.runtime.session.outputs import Outputs


class PredictingModel(HeldModel):
    """A model on a grid that can be asked for its outputs."""

    _binding: InputBinding

    def predict(self, *args: object, **kwargs: object) -> Outputs:
        """The outputs of a whole batch, in evaluation and without gradients; the model is left in the mode in which it was.

        Arguments are those of the model's forward, of which what the loss alone needs may be missing. Collective; every rank passes
        the same. Raises ConfigError where the program returns its loss alone, or cannot evaluate, and else what a call raises.
        """
        check_outputs(self.description)
        given = named_inputs(self.description, args, kwargs)
        return self._predicted(self, given, self.input_part(self._rows(given)).whole_shape)

    def predict_parts(self, *args: object, **kwargs: object) -> Outputs:
        """`predict` for inputs of which every rank passes its own part only, as to `forward_parts`."""
        check_outputs(self.description)
        given = named_inputs(self.description, args, kwargs)
        return self._predicted(self.forward_parts, given, self.input_part(self._rows_of_parts(given)).shape)

    def rows_of(self, args: Sequence[object], kwargs: Mapping[str, object], *, parts: bool) -> int:
        """The rows of a whole batch, of which these are the inputs or this rank's parts of them. Collective for parts.

        Where no input has rows of the batch, or none of those is passed, they are as many as were compiled.
        """
        given = named_inputs(self.description, args, kwargs)
        return self._rows_of_parts(given) if parts else self._rows(given)

    def takes(self, rows: int) -> bool:
        """Whether a batch may have so many rows."""
        try:
            self._program_for(rows, None)
        except (ConfigError, ProgramMismatch):
            return False
        return True

    def _rows(self, given: Mapping[str, object]) -> int:
        values = (given[name] for name in self.description.batched if name in given)
        return next((one.shape[0] for one in values if isinstance(one, Tensor) and one.dim()), self.description.rows)

    def _rows_of_parts(self, given: Mapping[str, object]) -> int:
        name = next((name for name in self.description.batched if name in given), None)
        return self.description.rows if name is None else self._binding.rows_of_parts(name, given[name])

    def _predicted(
        self, forward: Callable[..., Any], given: Mapping[str, object], shape: Callable[[str], tuple[int, ...]]
    ) -> Outputs:
        needed, arguments = needed_inputs(self.description), dict(given)
        for item in self.description.inputs:
            if item.name not in given and item.name not in needed:
                arguments[item.name] = torch.zeros(shape(item.name), dtype=item.dtype)
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                called = forward(**arguments)
        finally:
            self.train(training)
        return Outputs(self.description.loss, None, called.in_parts)

    @abstractmethod
    def forward_parts(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """A call for inputs of which every rank passes its own part only."""

    @abstractmethod
    def input_part(self, batch: int | None = None) -> InputPart:
        """Which rows of every input are this rank's."""

    @abstractmethod
    def _program_for(self, rows: int, tensors: Mapping[str, Tensor] | None) -> BatchProgram:
        """The program for a batch of so many rows."""


def named_inputs(description: Description, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """What is passed, by name; what is too much keeps a call from going on, under names that no input has."""
    names = [item.name for item in description.inputs]
    return {
        **dict(zip([*names, *(f"argument {i}" for i in range(len(names), len(args)))], args, strict=False)),
        **kwargs,
    }


def needed_inputs(description: Description) -> tuple[str, ...]:
    """The inputs that the outputs are made of, in the order of forward's arguments."""
    every = tuple(item.name for item in description.inputs)
    needed = {name for output in description.outputs for name in (every if output.needs is None else output.needs)}
    return tuple(name for name in every if name in needed)


def check_outputs(description: Description) -> None:
    """Raise ConfigError where a program returns nothing beside its loss."""
    if not description.outputs:
        rule = "a prediction is what forward returns beside the loss"
        fix = (
            'have forward return it too, {"loss": loss, "logits": logits} say, and compile with --return logits '
            '(outputs=("logits",) in Python)'
        )
        raise ConfigError(refusal(description.name, "its program returns the loss alone", rule, fix=fix))
