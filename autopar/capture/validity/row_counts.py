"""For which numbers of rows the captured program holds, and the trace for another of them, by which it is printed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from torch import Tensor
from torch.export import ExportedProgram

from autopar.capture.exporting.export import traced
from autopar.capture.exporting.fake_module import FakeModule, arguments
from autopar.capture.validity.batch_rows import ExampleInputs, batched, rows_of
from autopar.capture.validity.row_guards import Unproved
from autopar.capture.validity.symbolic_rows import Symbolic, symbolic, symbols
from autopar.errors import CaptureError
from autopar.ir.batch_sizes import Sizes


@dataclass(frozen=True, slots=True)
class RowCounts:
    """The trace for any number of rows, the numbers for which its program holds, and one of them to print it by."""

    trace: Symbolic
    sizes: Sizes
    other: int


_FAR = 50  # how many times as many rows are looked at for a number that is a prime


def find_row_counts(built: FakeModule, example: ExampleInputs, program: ExportedProgram, name: str) -> RowCounts:
    """The trace for any number of rows of what `program` is the trace of for these inputs.

    Raises Unproved where the numbers of rows for which the same program holds cannot be told.
    """
    rows = rows_of(example.examples)
    if rows < 2:
        raise Unproved("it was compiled for a batch of one row" if rows else "no input has rows")
    args, kwargs = arguments(example.examples, built)
    having = batched(example.examples, example.names)
    named = zip(example.names, (*args, *kwargs.values()), strict=True)
    tensors = [tensor for key, tensor in named if key in having and isinstance(tensor, Tensor)]
    try:
        with symbols():
            trace = traced(built.module, args, kwargs, name, tensors)
    except CaptureError as error:
        raise Unproved(f"with another number of rows, {_first(error)}") from error
    try:
        rows_trace = symbolic(trace, built.module, example.names[: len(args)])
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # sympy, of what it was not made for
        raise Unproved(f"its expressions of the number of rows cannot be read: {error}") from error
    if line := rows_trace.differs(program, rows):
        raise Unproved(f"{line}: for any number of rows, forward makes other calls")
    sizes = rows_trace.sizes
    if sizes.accepts(1) and (why := _alone(built, example, rows_trace, name)):
        sizes = replace(sizes, least=2, why=(*sizes.why, why))
    return RowCounts(rows_trace, sizes, _another(sizes, rows))


def _another(sizes: Sizes, rows: int) -> int:
    """Another number of rows: a prime times what all are a multiple of, so that only this one factor changes with the batch."""
    step = 1 if sizes.remainder else sizes.multiple
    upward, downward = itertools.count(2 * rows + 1), range(2 * rows, 1, -1)
    for n in itertools.chain(itertools.islice(upward, _FAR * rows), downward):
        if n != rows and sizes.accepts(n) and n % step == 0 and _prime(n // step):
            return n
    raise Unproved("; ".join(sizes.why))


def _prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, n))


def _alone(built: FakeModule, example: ExampleInputs, rows_trace: Symbolic, name: str) -> str:
    """Why the program does not hold for one row; empty where it does."""
    args, kwargs = arguments(example.with_rows(rows_trace.inputs, 1), built)
    try:
        line = rows_trace.differs(traced(built.module, args, kwargs, name), 1)
    except CaptureError as error:
        return f"with one row, {_first(error)}"
    return f"{line}: with one row, forward makes other calls" if line else ""


def _first(error: CaptureError) -> str:
    return " ".join(str(error).splitlines()[:2])
