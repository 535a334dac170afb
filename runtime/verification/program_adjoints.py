"""The adjoint test of every communication of a compiled program, in float64, at the shapes that it has there.

One training step is recorded on every rank (`recorded_calls`), forward and backward. Then the ranks of each communicator
put what they have called to the test, in the order of the calls; what a line calls several times at the same shapes (a loop
over layers) is tested once. Of the rows of a grid that do the same over the same axis, the worst counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from autopar.errors import ProgramMismatch, refusal
from autopar.runtime.diagnostics.collective_errors import agree, together
from autopar.runtime.grid.grid import Grid
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import CompiledJob
from autopar.runtime.transport.base import Comm
from autopar.runtime.verification.adjoint_test import TOLERANCE, operator_error
from autopar.runtime.verification.force_float64 import ForceFloat64
from autopar.runtime.verification.recorded_calls import CallRecorder, CommunicationCall

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Communication:
    """A call of the program: its line (0 in backward), inside which function, over which axes, the worst relative error.

    `shape` is that of the local operand where the error was the worst.
    """

    line: int
    inside: str
    primitive: str
    axis: str
    shape: tuple[int, ...]
    relative: float

    @property
    def name(self) -> str:
        """``line 12: halo in conv over model``."""
        where = f"line {self.line}: " if self.line else "backward: "
        return f"{where}{self.primitive}{f' in {self.inside}' if self.inside else ''} over {self.axis}"


def examine_program(opened: CompiledJob, file: str, seed: int) -> list[Communication]:
    """Record a training step of the program in `file`, and test what it communicates. Collective; alike on every rank."""
    parallel = compiled_job.parallel(opened, seed, torch.float64)
    with together(parallel.grid.comm, "reading a batch"):
        batch = compiled_job.cast(next(compiled_job.batches(opened)), torch.float64)
    with ForceFloat64(), CallRecorder(file) as forward:
        loss = compiled_job.loss_of(compiled_job.call(parallel, batch))
    with ForceFloat64(), CallRecorder() as backward:
        loss.backward()  # type: ignore[no-untyped-call]
    tested = examine(opened.program.grid, [*forward.calls, *backward.calls], seed)
    parallel.free()
    return tested


def examine(grid: Grid, calls: Sequence[CommunicationCall], seed: int) -> list[Communication]:
    """Test recorded calls, in the program's order, those of backward last.

    Raises ProgramMismatch or CommError, on all ranks, where the ranks of an axis have not called the same.
    """
    comms = {id(axis.comm): axis.comm for axis in grid.axes if axis.size > 1}
    comms |= {id(call.comm): call.comm for call in calls if call.comm.size > 1}
    rows: list[Communication] = []
    error: ProgramMismatch | None = None
    for comm in comms.values():
        mine = [call for call in calls if call.comm is comm]
        try:
            rows += _over(comm, _axes(grid, comm), mine, seed)
        except ProgramMismatch as refused:  # on all ranks of the communicator; the others hear of it below
            error = refused
    agree(grid.comm, "adjoint test", error)
    every: list[Any] = grid.comm.gather_objects([asdict(row) for row in rows])
    return _merged(Communication(**(row | {"shape": tuple(row["shape"])})) for some in every for row in some)


def lines(tested: Sequence[Communication], shown: int | None) -> list[str]:
    """What to print: the verdict in one line, and a table of the worst `shown` (all where None)."""
    if not tested:
        return ["ok     adjoint test                 nothing is communicated"]
    bad = [call for call in tested if not call.relative <= TOLERANCE]
    worst = max(call.relative for call in tested)
    head = (
        f"{'FAILS ' if bad else 'ok    '} adjoint test                 "
        f"{worst:.1e} of {TOLERANCE:.0e} allowed  in {len(tested)} communications of a step"
    )
    some = sorted(tested, key=lambda call: -call.relative)[:shown] if shown is not None else tested
    rows = [("line", "primitive", "over", "local operand", "error")]
    for call in some:
        primitive = f"{call.primitive}{f' in {call.inside}' if call.inside else ''}"
        shape = "x".join(map(str, call.shape)) or "1"
        rows.append((str(call.line or "backward"), primitive, call.axis, shape, f"{call.relative:.1e}"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = []
    for row in rows:
        first, *middle, last = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        table.append("  ".join([" " * 6, first.strip().rjust(widths[0]), *middle, last.strip()]))
    return [head, *table]


def _over(comm: Comm, axes: str, calls: Sequence[CommunicationCall], seed: int) -> list[Communication]:
    """The rows of what the ranks of one communicator have called. Collective over it."""
    every: list[Any] = comm.gather_objects(
        [[[call.line, call.inside, call.primitive], call.detail, list(call.shape)] for call in calls]
    )
    names = [[call[0] for call in called] for called in every]
    if any(other != names[0] for other in names):
        raise ProgramMismatch(_unlike(axes, names))
    tested: dict[str, Communication] = {}
    for i, call in enumerate(calls):
        key = str([called[i] for called in every])
        if key not in tested:
            error = operator_error(call.operator, call.source, call.target, call.shape, comm, seed)
            tested[key] = Communication(call.line, call.inside, call.primitive, axes, call.shape, error)
    return list(tested.values())


def _unlike(axes: str, names: Sequence[Sequence[Any]]) -> str:
    """The first call in which the ranks of an axis differ."""
    at = next(i for i in range(max(map(len, names))) if len({str(called[i : i + 1]) for called in names}) > 1)
    said = [
        f"rank {rank} of the axis: {f'{called[at][2]} in line {called[at][0]}' if at < len(called) else 'nothing'}"
        for rank, called in enumerate(names)
    ]
    rule = "the ranks of an axis call the same primitives in the same order"
    return refusal(f"call {at + 1} over {axes}", "the ranks do not call the same", rule, said)


def _axes(grid: Grid, comm: Comm) -> str:
    """The axes along which the ranks of a communicator differ. Collective over it."""
    every: list[Any] = comm.gather_objects(list(grid.position))
    names = [axis.name for i, axis in enumerate(grid.axes) if len({position[i] for position in every}) > 1]
    return ", ".join(names)


def _merged(rows: Iterable[Communication]) -> list[Communication]:
    """One row per call of the program: the worst of what its ranks and rounds have found."""
    worst: dict[tuple[object, ...], Communication] = {}
    for row in rows:
        key = (row.line, row.inside, row.primitive, row.axis)
        if key not in worst or not row.relative <= worst[key].relative:
            worst[key] = row
    return sorted(worst.values(), key=lambda row: row.line or math.inf)
