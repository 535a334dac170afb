"""One model, several programs: each for the numbers of rows that it takes, all over the same parameters.

A program holds for any number of rows wherever the model allows that. A model that counts its rows in a way of its own has
further programs, in which the parameters lie as in the first one. Only their constants are their own; they are kept
under the name that they have in the model behind ``rows_17``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.layout import Layouts
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters import minimum_rows
from autopar.runtime.parameters.shards import cuts
from autopar.runtime.parameters.sources import Source
from autopar.runtime.program.plan_reader import Description, TensorSpec
from autopar.runtime.program.program import Program, input_layouts, output_layouts, parameter_layouts
from autopar.runtime.session.outputs import Part


@dataclass(frozen=True, slots=True)
class BatchProgram:
    """A program and what it expects; `names` are those of its tensors here, by what it calls them."""

    program: Program
    description: Description
    inputs: Mapping[str, Layouts]
    outputs: Mapping[str, Layouts]
    parameters: Mapping[str, Layouts]
    names: Mapping[str, str]

    def fits(self, rows: int, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a batch of so many rows has the shapes that the program takes."""
        described = self.description
        shapes = {
            item.name: (rows, *item.shape[1:]) if item.name in described.batched else item.shape
            for item in described.inputs
        }
        return described.accepts(rows) and all(tuple(tensor.shape) == shapes[name] for name, tensor in tensors.items())


def batch_program(program: Program, description: Description) -> BatchProgram:
    """The program with its layouts. Raises ProgramMismatch where it does not fit the description, ConfigError where its cuts leave
    a rank without a row that it needs.
    """
    if str(program.grid.shape) != description.grid:
        problem = f"the program is for grid {program.grid.shape}, the plan for {description.grid}"
        rule = "program.py and plan.json belong together"
        raise ProgramMismatch(refusal("GRID of the program", problem, rule, fix="compile again"))
    if program.grid.queue is not None and description.division is None:
        rule = "the replicas of a queue draw micro-batches, of which this program has none"
        raise ProgramMismatch(refusal("GRID of the program", str(program.grid.shape), rule, fix="compile again"))
    if program.grid.shape.cuts:
        minimum_rows.check_minimum_rows(program.grid.axes, description.filled, "GRID of the program")
    return BatchProgram(
        program,
        description,
        input_layouts(program, description.inputs),
        output_layouts(program, description.outputs),
        parameter_layouts(program, description.parameters),
        {name: item.name for item in description.parameters for name in (item.name, *item.aliases)},
    )


def output_parts(program: BatchProgram, outputs: Sequence[Tensor], rows: int, axes: Sequence[Axis]) -> dict[str, Part]:
    """The outputs of a call with so many rows, by name, as this rank's parts."""
    pairs = zip(program.outputs.items(), outputs, strict=True)
    return {name: (part.detach(), cuts(output_shape(program, name, rows), how, axes)) for (name, how), part in pairs}


def output_shape(program: BatchProgram, name: str, rows: int) -> tuple[int, ...]:
    """The whole shape of an output of a call with so many rows."""
    item = next(item for item in program.description.outputs if item.name == name)
    return tuple(n * rows // program.description.rows if i in item.rows else n for i, n in enumerate(item.shape))


def check_minimum_rows(program: BatchProgram, rows: int, axes: Sequence[Axis]) -> None:
    """Raise ConfigError, alike on every rank, where so few rows leave a rank without one that needs one."""
    described, compiled = program.description, program.description.rows
    if described.division is not None:
        compiled = described.division.rows
        rows = min(high - low for low, high in itertools.pairwise(described.microbatches(rows)))
    if rows != compiled and described.filled_by_rows:
        minimum_rows.check_minimum_rows(
            axes,
            [(axes, extent * rows // compiled) for axes, extent in described.filled_by_rows],
            f"a {'micro-batch' if described.division is not None else 'batch'} of {rows} rows",
            "drop a batch of so few rows, or evaluate it on fewer ranks",
        )


def sharing_parameters(first: BatchProgram, other: BatchProgram) -> tuple[BatchProgram, dict[TensorSpec, Layouts]]:
    """The other program over the first one's parameters, and its constants. Raises ProgramMismatch with all that differs."""
    mine, theirs = (_stored(program) for program in (first, other))
    names = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if names:
        where = f"the program for {other.description.rows} rows"
        rule = "programs for several numbers of rows share their parameters, which lie alike in all"
        raise ProgramMismatch(refusal(where, "its parameters are others", rule, names[:10], "compile again"))
    prefix = f"rows_{other.description.rows}."
    constants = {
        replace(item, name=prefix + item.name): other.parameters[item.name]
        for item in other.description.parameters
        if item.kind == "constant"
    }
    own = {item.name.removeprefix(prefix): item.name for item in constants}
    return replace(other, names={name: own.get(name, stored) for name, stored in other.names.items()}), constants


def own_constants(program: BatchProgram, source: Source) -> Source:
    """The constants that a source has for a program, by their names here."""
    known = {name for name, stored in program.names.items() if stored.startswith(f"rows_{program.description.rows}.")}
    return ((program.names[name], value) for name, value in source if name in known)


def _stored(program: BatchProgram) -> dict[str, tuple[object, ...]]:
    """What is the same in all programs of a model."""
    return {
        item.name: (item.shape, item.dtype, item.kind, item.aliases, program.parameters[item.name])
        for item in program.description.parameters
        if item.kind != "constant"
    }
