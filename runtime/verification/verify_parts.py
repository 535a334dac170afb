"""Is what a model file reads by parts the parts of what it reads whole? For `autopar verify`, on every rank and without a step.

`batches(part)` and `evaluate(part)` are asked for the first batch twice: for this rank's part and for the whole. What they
yield for the part has to be what the rank would be given of the whole, element by element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.data.input_part import InputPart, input_part
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.program.program import input_layouts
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob, Inputs
from autopar.runtime.session.inputs import bind


def first_parts(opened: CompiledJob) -> Inputs | None:
    """This rank's parts of the first batch, which are those of the whole one; None where no parts are read. Collective.

    Raises ConfigError, on all ranks, where they are other ones; of `evaluate(part)` as well.
    """
    file, grid, described = opened.file, opened.program.grid, opened.description
    if file is None or grid.queue is not None:  # a queue takes whole batches
        return None
    part = input_part([(described, input_layouts(opened.program, described.inputs))], grid.axes)
    whole = input_part([(described, {})], ())
    parts = None
    if file.takes_part:
        with together(grid.comm, "comparing the parts of batches(part) with the whole"):
            parts = next(compiled_job.batches(opened, part=lambda: part))
            _check(opened, "batches(part)", part, parts, next(compiled_job.batches(opened)))
    if file.evaluate is not None and file.wants_part(file.evaluate):
        with together(grid.comm, "comparing the parts of evaluate(part) with the whole"):
            yielded = [next(compiled_job.drawn_alike(iter(file.evaluate(one)), 0), None) for one in (part, whole)]
            if yielded[0] is None or yielded[1] is None:
                raise ConfigError(refusal(file.path.name, "evaluate(part) yields nothing", "it yields inputs"))
            _check(opened, "evaluate(part)", part, *yielded)
    return parts


def _check(opened: CompiledJob, function: str, part: InputPart, mine: Inputs | None, other: Inputs | None) -> None:
    """Raise ConfigError with every input of which the part is not that of the whole."""
    assert mine is not None
    assert other is not None
    own, whole = ({**bind(opened.description.inputs, *compiled_job.arguments(one))} for one in (mine, other))
    problems = list(_differences(part, own, whole))
    if problems:
        assert opened.file is not None
        rule = "what is yielded for a part is what the rank would be given of what is yielded for the whole"
        fix = "read by part.slice(name, source), or the rows that part.rows(name) names; draw alike on all ranks"
        where = f"{opened.file.path.name}: {function} on rank {opened.program.grid.rank}"
        raise ConfigError(refusal(where, "its parts are not those of the whole", rule, problems, fix))


def _differences(part: InputPart, own: Mapping[str, object], whole: Mapping[str, object]) -> Iterator[str]:
    batched = [name for name in part.names if name in part.programs[0][0].batched]
    first = whole[batched[0]] if batched else None
    part = part.of(first.shape[0]) if isinstance(first, Tensor) and first.dim() else part
    for name in part.names:
        mine, other = own[name], whole[name]
        if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
            yield f"{name} is {type(mine).__name__} and {type(other).__name__}, not tensors"
            continue
        if tuple(other.shape) != part.whole_shape(name):
            yield f"{name} has shape {tuple(other.shape)} for the whole, compiled for {part.whole_shape(name)}"
            continue
        expected = part.slice(name, other) if other.dim() else other
        if mine.shape != expected.shape:
            yield f"{name} has shape {tuple(mine.shape)}, and the part {tuple(expected.shape)}"
        elif not torch.equal(mine.to(expected.dtype), expected):
            yield f"{name} differs in {int((mine.to(expected.dtype) != expected).sum())} of {mine.numel()} elements"
