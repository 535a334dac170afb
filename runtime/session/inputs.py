"""From a call's arguments to this rank's parts: names, shapes and dtypes are those of the plan, on all ranks or none.

A batch that one rank alone would refuse would leave the others waiting in their first collective. So every rank
checks its own arguments, and the ranks agree on the outcome (`autopar.runtime.diagnostics.collective_errors.agree`) before any
of them goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, nearest, refusal
from autopar.ir.layout import Layouts, Shard
from autopar.jobs.environment import settings
from autopar.runtime.diagnostics.collective_errors import agree, alike, ranks_by
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.checksum import digest
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import view_part
from autopar.runtime.program.plan_reader import Description, TensorSpec, dtype_name
from autopar.runtime.transport.base import Comm

_PRIME = 7919  # so that all elements are reached in time
_SAMPLED = 16  # elements of each input that the ranks compare in a step
_RARELY = 16  # calls after which a batch on a device is compared again
_NUMBERS = 1 << 20  # of which squares can be summed over a million ranks


@dataclass(frozen=True, slots=True)
class BoundBatch:
    """The whole inputs of a call and the rows of the batch; `alike` says that the ranks' samples of them are the same."""

    tensors: Mapping[str, Tensor]
    rows: int
    alike: bool


class InputBinding:
    """What a program's calls are checked against. Every method but `parts` is collective.

    `rarely` is for inputs on a device, whose elements take time to look at: they are compared every 16th call.
    """

    def __init__(self, grid: Grid, description: Description, layouts: Mapping[str, Layouts], rarely: bool) -> None:
        self._grid = grid
        self._description = description
        self._layouts = layouts
        self._every = _RARELY if rarely else 1
        self._calls = 0  # with whole inputs, which all ranks are to give alike
        self._checks = settings().check

    def whole(self, args: Sequence[object], kwargs: Mapping[str, object], dtype: torch.dtype | None) -> BoundBatch:
        """The arguments of a call with whole inputs. Raises ProgramMismatch, on all ranks, where they are no such."""
        described, batched = self._description.inputs, self._description.batched
        tensors: dict[str, Tensor] = {}
        error = None
        try:
            arguments, shapes = bind(described, args, kwargs), {item.name: item.shape for item in described}
            tensors = check(described, arguments, shapes, dtype, batched, same=not self._description.fixed)
        except ProgramMismatch as refused:
            error = refused
        compiled = self._description.rows
        counts = [tensors[name].shape[0] for name in batched] if tensors else []
        rows = next((rows for rows in counts if rows != compiled), compiled)
        number = sample(tensors, self._calls) if self._calls % self._every == 0 else 0
        return BoundBatch(tensors, rows, agree_on_rows(self._grid.comm, rows, error, number))

    def compare(self, batch: BoundBatch) -> None:
        """Raise ProgramMismatch, on all ranks, where they may have given different inputs, and have. Ends a call."""
        if self._calls == 0 or self._checks or not batch.alike:
            check_alike(self._grid.comm, batch.tensors, self._calls)
        self._calls += 1

    def parts(self, batch: BoundBatch, layouts: Mapping[str, Layouts]) -> dict[str, Tensor]:
        """This rank's part of every input."""
        return {name: view_part(tensor, layouts[name], self._grid.axes) for name, tensor in batch.tensors.items()}

    def own(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[int, dict[str, object], ProgramMismatch | None]:
        """The rows of the whole batch of which every rank passes its part, these parts, and what is wrong with them."""
        try:
            arguments, error = bind(self._description.inputs, args, kwargs), None
        except ProgramMismatch as refused:
            arguments, error = {}, refused
        if not self._description.batched:
            return self._description.rows, arguments, error
        name = self._description.batched[0]
        return self.rows_of_parts(name, arguments.get(name)), arguments, error

    def rows_of_parts(self, name: str, part: object) -> int:
        """The rows of a whole input, of which every rank gives its part."""
        pairs = zip(self._grid.axes, self._layouts[name], strict=True)
        counts = all((isinstance(layout, Shard) and layout.dim == 0) or axis.index == 0 for axis, layout in pairs)
        counts = counts and (self._grid.place is None or self._grid.place.index == 0)  # positions have the same parts
        total = torch.tensor([part.shape[0] if counts and isinstance(part, Tensor) and part.dim() else 0])
        self._grid.comm.all_reduce(total)
        return int(total)

    def checked_parts(
        self,
        arguments: Mapping[str, object],
        shapes: Mapping[str, tuple[int, ...]],
        error: ProgramMismatch | None,
        dtype: torch.dtype | None,
    ) -> dict[str, Tensor]:
        """The inputs as this rank's parts of these shapes. Raises ProgramMismatch, on all ranks, where one refuses its own."""
        parts: dict[str, Tensor] = {}
        if error is None:
            try:
                parts = check(self._description.inputs, arguments, shapes, dtype)
            except ProgramMismatch as refused:
                error = refused
        agree(self._grid.comm, "inputs of the step", error)
        return parts


def bind(described: Sequence[TensorSpec], args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Arguments by input name: positional ones in the order of the plan. Raises ProgramMismatch."""
    names = [item.name for item in described]
    arguments = dict(zip(names, args, strict=False))
    problems = [f"{len(args)} positional arguments for {len(names)} inputs"] if len(args) > len(names) else []
    problems += [f"{name} is given twice" for name in kwargs if name in arguments]
    problems += [f"{name!r} is no input{nearest(name, names)}" for name in kwargs if name not in names]
    arguments.update((name, value) for name, value in kwargs.items() if name in names)
    problems += [f"{name} is missing" for name in names if name not in arguments]
    _refuse(described, problems)
    return arguments


def check(
    described: Sequence[TensorSpec],
    arguments: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | None,
    batched: Sequence[str] = (),
    *,
    same: bool = True,
) -> dict[str, Tensor]:
    """The given inputs as tensors of these shapes; floating point becomes `dtype` if given. Raises ProgramMismatch.

    The `batched` inputs may have any number of rows along dim 0, all of them the same; or, if not `same`, those that have
    others than were compiled for.
    """
    problems = []
    tensors: dict[str, Tensor] = {}
    for item in described:
        value = arguments[item.name]
        if not isinstance(value, Tensor):
            problems.append(f"{item.name} is {type(value).__name__}, not a tensor")
            continue
        target = precise(item.dtype, dtype)
        if not _fits(tuple(value.shape), shapes[item.name], free=item.name in batched):
            problems.append(f"{item.name} has shape {tuple(value.shape)}, compiled for {shapes[item.name]}")
        if value.dtype not in (item.dtype, target):
            problems.append(f"{item.name} has dtype {dtype_name(value.dtype)}, compiled for {dtype_name(item.dtype)}")
        if value.requires_grad and torch.is_grad_enabled():
            problems.append(f"{item.name} requires a gradient, of which a rank would get its own part: detach it")
        tensors[item.name] = value.to(target)
    rows = {name: tensors[name].shape[0] for name in batched if name in tensors and tensors[name].dim()}
    if len({n for name, n in rows.items() if same or n != shapes[name][0]}) > 1:
        problems.append(f"they differ in their rows: {', '.join(f'{name} has {n}' for name, n in rows.items())}")
    _refuse(described, problems)
    return tensors


def _fits(shape: tuple[int, ...], compiled: tuple[int, ...], *, free: bool) -> bool:
    return shape == compiled or (free and len(shape) == len(compiled) and shape[0] > 0 and shape[1:] == compiled[1:])


def agree_on_rows(comm: Comm, rows: int, error: Exception | None, sample: int = 0) -> bool:
    """Raise on every rank if any rank brings an error, or another number of rows than the others. Collective.

    Returns whether all ranks bring the same `sample`, too.
    """
    numbers = torch.tensor([error is not None, rows, rows * rows, sample, sample * sample], dtype=torch.int64)
    comm.all_reduce(numbers)
    failed, total, squares, samples, their_squares = numbers.tolist()
    if not failed and squares * comm.size != total * total:  # equal numbers alone have no variance
        every = comm.gather_objects(rows)
        lines = [f"rank {rank} passes {rows} rows" for rank, rows in enumerate(every)]
        rule = "every rank passes the same whole batch, and takes its own part of it"
        fix = "make the loader of every rank yield the same batches, or pass parts to forward_parts"
        error = ProgramMismatch(refusal("inputs of the step", "they differ from rank to rank", rule, lines, fix))
    if failed or error is not None:
        agree(comm, "inputs of the step", error)
    return bool(their_squares * comm.size == samples * samples)


def sample(tensors: Mapping[str, Tensor], call: int) -> int:
    """A number made of a few elements of each tensor, of others in each call: ranks whose batches differ soon show it.

    Elements are taken as they lie in memory, which takes microseconds; ranks that store the same batch in other ways
    give other numbers.
    """
    number = 0
    for tensor in tensors.values():
        if tensor.numel():
            span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            stride = -(-span // _SAMPLED)
            first = call * _PRIME % stride
            count = -(-(span - first) // stride)
            few = tensor.detach().as_strided((count,), (stride,), tensor.storage_offset() + first)
            number = zlib.crc32(few.cpu().contiguous().view(torch.uint8).numpy().data, number)
    return number % _NUMBERS


def check_alike(comm: Comm, tensors: Mapping[str, Tensor], call: int) -> None:
    """Raise ProgramMismatch, on all ranks, unless every rank was given the same whole inputs. Collective."""
    every = [dict(theirs) for theirs in comm.gather_objects({name: digest(tensor) for name, tensor in tensors.items()})]  # type: ignore[call-overload]
    lines = []
    for name in tensors:
        groups = ranks_by((rank, theirs[name]) for rank, theirs in enumerate(every))
        if len(groups) > 1:
            who = "; other than ".join(f"rank{'s' * (len(ranks) > 1)} {_listed(ranks)}" for ranks in groups.values())
            lines.append(f"{name}: of {who}")
    if lines:
        where = "inputs of the first step" if call == 0 else f"inputs of step {call + 1}"
        rule = "every rank passes the same whole batch, and takes its own part of it"
        fix = (
            "seed whatever draws, shuffles or augments the batches alike on all ranks (Python's, NumPy's and torch's generators, "
            "also in the workers of a loader), or pass parts to forward_parts"
        )
        raise alike(ProgramMismatch(refusal(where, "they differ from rank to rank", rule, lines, fix)))


def _listed(ranks: Sequence[int]) -> str:
    return f"{', '.join(map(str, ranks[:8]))}{f' and {len(ranks) - 8} more' if len(ranks) > 8 else ''}"


def refused_rows(programs: Sequence[Description], rows: int) -> ProgramMismatch:
    """The refusal of a batch of so many rows, which none of a model's programs takes."""
    first = programs[0]
    takes = ", or ".join(f"{program.rows} rows" if program.fixed else str(program.sizes) for program in programs)
    rule = f"what was compiled takes {takes}: {first.fixed or '; '.join(first.sizes.why)}"
    fix = (
        f"compile for this size, too (autopar compile --batch-sizes {rows}, or batch_sizes=({rows},) in Python), "
        "or drop or pad the batch"
    )
    return ProgramMismatch(refusal("inputs of the step", f"a batch of {rows} row{'s' * (rows != 1)}", rule, fix=fix))


def _refuse(described: Sequence[TensorSpec], problems: Sequence[str]) -> None:
    if problems:
        fix = "pass such inputs, or compile again for these"
        expected = ", ".join(f"{item.name} {dtype_name(item.dtype)}{list(item.shape)}" for item in described)
        raise ProgramMismatch(
            refusal(
                "inputs of the step",
                "they are not those that were compiled for",
                f"every step takes {expected}",
                problems,
                fix,
            )
        )
