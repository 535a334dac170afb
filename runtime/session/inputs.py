"""From a call's arguments to this rank's parts: names, shapes and dtypes are those of the plan, on all ranks or none.

A batch that one rank alone would refuse would leave the others waiting in their first collective. So every rank
checks its own arguments, and the ranks agree on the outcome (`autopar.runtime.diagnostics.collective_errors.agree`) before any
of them goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, nearest, refusal
from autopar.runtime.diagnostics.collective_errors import agree, alike
from autopar.runtime.parameters.checksum import digest
from autopar.runtime.parameters.precision import precise
from autopar.runtime.program.plan_reader import Described, Description, dtype_name
from autopar.runtime.transport.base import Comm

_PRIME = 7919  # so that all elements are reached in time
_SAMPLED = 16  # elements of each input that the ranks compare in a step
_NUMBERS = 1 << 20  # of which squares can be summed over a million ranks


def bind(described: Sequence[Described], args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Arguments by input name: positional ones in the order of the plan. Raises ProgramMismatch."""
    names = [item.name for item in described]
    given = dict(zip(names, args, strict=False))
    problems = [f"{len(args)} positional arguments for {len(names)} inputs"] if len(args) > len(names) else []
    problems += [f"{name} is given twice" for name in kwargs if name in given]
    problems += [f"{name!r} is no input{nearest(name, names)}" for name in kwargs if name not in names]
    given.update((name, value) for name, value in kwargs.items() if name in names)
    problems += [f"{name} is missing" for name in names if name not in given]
    _refuse(described, problems)
    return given


def check(
    described: Sequence[Described],
    given: Mapping[str, object],
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
        value = given[item.name]
        if not isinstance(value, Tensor):
            problems.append(f"{item.name} is {type(value).__name__}, not a tensor")
            continue
        wanted = precise(item.dtype, dtype)
        if not _fits(tuple(value.shape), shapes[item.name], free=item.name in batched):
            problems.append(f"{item.name} has shape {tuple(value.shape)}, compiled for {shapes[item.name]}")
        if value.dtype not in (item.dtype, wanted):
            problems.append(f"{item.name} has dtype {dtype_name(value.dtype)}, compiled for {dtype_name(item.dtype)}")
        tensors[item.name] = value.to(wanted)
    rows = {name: tensors[name].shape[0] for name in batched if name in tensors and tensors[name].dim()}
    if len({n for name, n in rows.items() if same or n != shapes[name][0]}) > 1:
        problems.append(f"they differ in their rows: {', '.join(f'{name} has {n}' for name, n in rows.items())}")
    _refuse(described, problems)
    return tensors


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], *, free: bool) -> bool:
    return shape == wanted or (free and len(shape) == len(wanted) and shape[0] > 0 and shape[1:] == wanted[1:])


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
    found = 0
    for tensor in tensors.values():
        if tensor.numel():
            span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
            stride = -(-span // _SAMPLED)
            first = call * _PRIME % stride
            count = -(-(span - first) // stride)
            few = tensor.detach().as_strided((count,), (stride,), tensor.storage_offset() + first)
            found = zlib.crc32(few.cpu().contiguous().view(torch.uint8).numpy().data, found)
    return found % _NUMBERS


def check_alike(comm: Comm, tensors: Mapping[str, Tensor], call: int) -> None:
    """Raise ProgramMismatch, on all ranks, unless every rank was given the same whole inputs. Collective."""
    every = [dict(one) for one in comm.gather_objects({name: digest(tensor) for name, tensor in tensors.items()})]  # type: ignore[call-overload]
    lines = []
    for name in tensors:
        groups: dict[str, list[int]] = {}
        for rank, one in enumerate(every):
            groups.setdefault(one[name], []).append(rank)
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
    takes = ", or ".join(f"{one.rows} rows" if one.fixed else str(one.sizes) for one in programs)
    rule = f"what was compiled takes {takes}: {first.fixed or '; '.join(first.sizes.why)}"
    fix = (
        f"compile for this size, too (autopar compile --batch-sizes {rows}, or batch_sizes=({rows},) in Python), "
        "or drop or pad the batch"
    )
    return ProgramMismatch(refusal("inputs of the step", f"a batch of {rows} row{'s' * (rows != 1)}", rule, fix=fix))


def _refuse(described: Sequence[Described], problems: Sequence[str]) -> None:
    if problems:
        fix = "pass such inputs, or compile again for these"
        wanted = ", ".join(f"{item.name} {dtype_name(item.dtype)}{list(item.shape)}" for item in described)
        raise ProgramMismatch(
            refusal(
                "inputs of the step",
                "they are not those that were compiled for",
                f"every step takes {wanted}",
                problems,
                fix,
            )
        )
