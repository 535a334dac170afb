"""What a generated file hands to the runtime: a grid, a forward function, and the layout of every input and parameter.

Layouts are given by name. A key of the parameter table is an original dotted name in which the component ``*`` stands
for any one component: ``transformer.h.*.ln_1.weight`` covers that parameter of every block. An exact name is stronger
than a pattern, and a pattern with fewer stars is stronger than one with more, so one block may be laid out apart from
its siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autopar.errors import ProgramMismatch, nearest, refusal
from autopar.ir.layout import Layout, Layouts, Partial, Shard
from autopar.runtime.grid.grid import Grid
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.plan_reader import OutputSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Program:
    """One training step on a grid.

    `forward(p, *inputs)` takes the namespace of local parameters and the local parts of the inputs, in the order of
    `inputs`, and returns the loss, a scalar that is the same on all ranks; with `outputs` a tuple of the loss and the
    local parts of these. `inputs` maps each input's name, `parameters` each name or pattern, `outputs` the path of each
    in what the model returns, to one layout per grid axis. `filters` is the order of memory in which parameters of four
    dims are stored: where images lie channels last, so do the gradients of convolutions' weights.

    Where the graph is divided, a `Pipeline` stands in the place of `forward`.

    With several `microbatches` forward is called once for each, with some rows of the inputs, and behind them what
    `counts(p, *inputs)` returns, summed over all micro-batches; the losses, and their gradients, add up to the step's.
    """

    grid: Grid
    forward: Callable[..., Any] | Pipeline
    inputs: Mapping[str, Sequence[Layout]]
    parameters: Mapping[str, Sequence[Layout]]
    outputs: Mapping[str, Sequence[Layout]] = field(default_factory=dict)
    filters: torch.memory_format = torch.contiguous_format
    microbatches: int = 1
    counts: Callable[..., Any] | None = None


def parameter_layouts(program: Program, described: Sequence[TensorSpec]) -> dict[str, Layouts]:
    """The layouts of every described parameter and buffer, by name. Raises ProgramMismatch with all offenders."""
    problems: list[str] = []
    used: set[str] = set()
    layouts: dict[str, Layouts] = {}
    for item in described:
        matching = [pattern for pattern in program.parameters if matches(pattern, item.name)]
        used.update(matching)
        fewest = min((pattern.count("*") for pattern in matching), default=0)
        strongest = [pattern for pattern in matching if pattern.count("*") == fewest]
        if not strongest:
            problems.append(f"{item.name} has no layout{nearest(item.name, program.parameters)}")
        elif len({tuple(program.parameters[pattern]) for pattern in strongest}) > 1:
            problems.append(f"{item.name} is given different layouts by {' and '.join(map(repr, strongest))}")
        else:
            layouts[item.name] = tuple(program.parameters[strongest[0]])
            problems += [f"{item.name}: {problem}" for problem in _faults(layouts[item.name], item.shape, program.grid)]
    names = [name for item in described for name in (item.name, *item.aliases)]
    problems += [
        f"{pattern!r} matches no parameter{nearest(pattern, names)}{_tied(pattern, described)}"
        for pattern in program.parameters
        if pattern not in used
    ]
    _refuse("PARAMETERS of the program", problems)
    return layouts


def input_layouts(program: Program, described: Sequence[TensorSpec]) -> dict[str, Layouts]:
    """The layouts of every described input, by name. Raises ProgramMismatch with all offenders."""
    known = {item.name for item in described}
    problems = [f"{item.name} has no layout" for item in described if item.name not in program.inputs]
    problems += [f"{name!r} is no input{nearest(name, known)}" for name in program.inputs if name not in known]
    for item in described:
        faults = _faults(tuple(program.inputs.get(item.name, ())), item.shape, program.grid)
        problems += [f"{item.name}: {fault}" for fault in faults if item.name in program.inputs]
    _refuse("INPUTS of the program", problems)
    return {item.name: tuple(program.inputs[item.name]) for item in described}


def output_layouts(program: Program, described: Sequence[OutputSpec]) -> dict[str, Layouts]:
    """The layouts of every described output, by path, in the program's order. Raises ProgramMismatch with all offenders."""
    shapes = {item.name: item.shape for item in described}
    problems = [f"{name!r} is no output{nearest(name, shapes)}" for name in program.outputs if name not in shapes]
    for name, layouts in program.outputs.items():
        problems += [f"{name}: {fault}" for fault in _faults(tuple(layouts), shapes.get(name, ()), program.grid)]
    _refuse("OUTPUTS of the program", problems)
    return {name: tuple(layouts) for name, layouts in program.outputs.items()}


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern covers the name: equal component by component, ``*`` covering any one.

    >>> matches("h.*.weight", "h.11.weight"), matches("h.*.weight", "h.0.mlp.weight")
    (True, False)
    """
    left, right = pattern.split("."), name.split(".")
    return len(left) == len(right) and all(wild in ("*", other) for wild, other in zip(left, right, strict=True))


def _tied(pattern: str, described: Sequence[TensorSpec]) -> str:
    owners = {item.name for item in described for alias in item.aliases if matches(pattern, alias)}
    return f" (a name tied to {', '.join(sorted(owners))}, which is the one to give)" if owners else ""


def _faults(layouts: Layouts, shape: tuple[int, ...], grid: Grid) -> list[str]:
    if len(layouts) != len(grid.axes):
        return [f"{len(layouts)} layouts for the {len(grid.axes)} axes of grid {grid.shape}"]
    faults = []
    for axis, layout in zip(grid.axes, layouts, strict=True):
        if isinstance(layout, Partial):
            faults.append(f"partial over {axis.name}: stored tensors are replicated, copied or sharded")
        elif isinstance(layout, Shard) and not 0 <= layout.dim < len(shape):
            faults.append(f"{layout} over {axis.name}, but its shape is {shape}")
        elif isinstance(layout, Shard) and shape[layout.dim] % (layout.blocks * layout.unit):
            faults.append(f"{layout} over {axis.name}, but {layout.blocks} x {layout.unit} does not divide {shape}")
    return faults


def _refuse(where: str, problems: list[str]) -> None:
    if problems:
        raise ProgramMismatch(
            refusal(
                where,
                f"{len(problems)} of its entries do not fit the plan",
                "every parameter and input of plan.json has one layout per grid axis",
                problems,
                "mend the table in program.py, or compile again to restore it",
            )
        )
