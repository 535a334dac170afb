"""The live grid: this process's place on every axis, the axes' communicators, and where each axis cuts a dim.

An axis has cuts, fractions ``0 = c_0 <= ... <= c_size = 1``, or none, which means balanced. ``bounds(m)`` are the
rows at which a dim of extent m is cut: `even_bounds(m)` without cuts, ``floor(c_i * m + 1/2)`` with them. All dims
that are split over an axis follow its cuts in proportion, so that moving a boundary is one call of `Axis.move`, alike
on every rank.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.ir.grid import GridShape, ravel, unravel
from autopar.ir.layout import are_cuts, cut_bounds
from autopar.runtime.diagnostics.failure import end_scripts
from autopar.runtime.diagnostics.watched_comm import first_to_fail, label, watch
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.staged import stage
from autopar.runtime.transport.world import default_world, simulated_world

_LAUNCHERS = ("SLURM_NTASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE")


class Axis:
    """One axis of a live grid, as this rank sees it: `index` is its place among the `size` ranks of `comm`."""

    def __init__(self, name: str, comm: Comm, cuts: Sequence[float] = ()) -> None:
        self.name = name
        self.comm = comm
        self.size = comm.size
        self.index = comm.rank
        self._cuts: tuple[float, ...] | None = tuple(cuts) or None
        self._bounds: dict[int, tuple[int, ...]] = {}
        self._agreed: dict[Hashable, bool] = {}

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """The fractions at which every dim is cut, ``size + 1`` of them, or None for balanced parts."""
        return self._cuts

    def move(self, cuts: Iterable[float] | None) -> None:
        """Cut at these fractions from now on. Every rank of the axis must do the same. Raises ConfigError."""
        cuts = None if cuts is None else tuple(map(float, cuts))
        if not are_cuts(self.size, cuts):
            rule = f"the cuts of an axis of {self.size} ranks are {self.size + 1} fractions that rise from 0 to 1"
            raise ConfigError(refusal(f"axis {self.name}", f"cannot be cut at {cuts}", rule))
        self._cuts = cuts
        self._bounds = {}

    def bounds(self, extent: int) -> tuple[int, ...]:
        """Where a dim of `extent` rows is cut: rank i holds rows ``bounds[i]:bounds[i+1]``; parts may be empty."""
        if extent not in self._bounds:
            self._bounds[extent] = cut_bounds(extent, self.size, self._cuts or ())
        return self._bounds[extent]

    def part(self, extent: int) -> int:
        """How many rows of a dim of `extent` rows are this rank's."""
        bounds = self.bounds(extent)
        return bounds[self.index + 1] - bounds[self.index]

    def start(self, extent: int) -> int:
        """The first of this rank's rows of a dim of `extent` rows."""
        return self.bounds(extent)[self.index]

    def agree(self, question: Hashable, answer: bool) -> bool:
        """Whether all ranks of the axis said yes when they were first asked this. Collective the first time."""
        if question not in self._agreed:
            self._agreed[question] = all(self.comm.gather_objects(answer))
        return self._agreed[question]

    def __repr__(self) -> str:
        return f"Axis({self.name!r}, index {self.index} of {self.size})"


class Grid:
    """A process grid: rank = row-major index of `position` on the axes, within that of the place axis or the queue, if any.

    `axes` are those over which tensors are split. `place` is the place axis, over whose positions the graph is divided, `queue`
    the axis whose replicas draw micro-batches; `outer` is whichever there is, and its ranks stand at one position of `axes`.
    `group` are the ranks at this rank's place, or of its replica: all of them without such an axis.

    Without `comm` the ranks are those of the running simulation, or all of MPI's. Making a grid is collective: every
    rank of `comm` makes the same one. Axes cut at `cuts`, fractions by name, until they are moved; in balanced parts where these
    do not name them. Raises ProgramMismatch where the number of ranks is not the grid's, ConfigError for cuts that do not fit it.
    """

    def __init__(
        self, spec: str | GridShape, comm: Comm | None = None, cuts: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        self.shape = GridShape.parse(spec) if isinstance(spec, str) else spec
        if cuts is not None:
            self.shape = self.shape.cut(cuts)
        self._owned = comm is None and simulated_world() is None
        self.comm = comm if comm is not None else default_world()
        check_ranks(self.shape, self.comm.size)
        self.comm = watch(stage(self.comm))
        if self._owned:
            end_scripts(self.comm, partial(first_to_fail, self.comm))
        self.rank = self.comm.rank
        self.size = self.comm.size
        at, within = divmod(self.rank, math.prod(self.shape.sizes))
        self.position = unravel(within, self.shape.sizes)
        self.place: Axis | None = None
        self.queue: Axis | None = None
        self.group = self.comm
        if outer := self.shape.place or self.shape.queue:
            axis = Axis(outer.name, label(self.comm.split(within, at), outer.name))
            self.place, self.queue = (axis, None) if self.shape.place else (None, axis)
            what = "position" if self.shape.place else "replica"
            self.group = label(self.comm.split(at, within), f"{what} {at} of {outer.name}")
        self.axes = tuple(self._axis(i) for i in range(len(self.shape.sizes)))

    @property
    def outer(self) -> Axis | None:
        """The place axis, or the queue."""
        return self.place or self.queue

    @property
    def outer_comms(self) -> tuple[Comm, ...]:
        """The communicators that such an axis brings: over its positions or replicas, and of the ranks of this one."""
        return () if self.outer is None else (self.outer.comm, self.group)

    def _axis(self, i: int) -> Axis:
        """The axis whose ranks agree with this one on all other coordinates."""
        others = tuple(0 if j == i else at for j, at in enumerate(self.position))
        name = self.shape.names[i]
        comm = self.group.split(ravel(others, self.shape.sizes), self.position[i])
        return Axis(name, label(comm, name), self.shape.cuts_of(i))

    def free(self) -> None:
        """Give the communicators back. The grid is of no use afterwards."""
        for axis in self.axes:
            axis.comm.free()
        if self.outer:
            self.group.free()
            self.outer.comm.free()
        if self._owned:
            self.comm.free()

    def __repr__(self) -> str:
        outer = f", {'place' if self.place else 'replica'} {self.outer.index}" if self.outer else ""
        return f"Grid({str(self.shape)!r}, rank {self.rank} at {self.position}{outer})"


def check_ranks(shape: GridShape, size: int) -> None:
    """Raise ProgramMismatch where a job of so many ranks is not the grid's.

    Its message says why: a wrong ``-n``, or a launcher that makes every rank a job of its own.
    """
    if size == shape.size:
        return
    said = {name: os.environ[name] for name in _LAUNCHERS if os.environ.get(name, "").isdigit()}
    launched = [f"{name}={value}" for name, value in said.items() if int(value) != size]
    problem = f"needs {shape.size} ranks; MPI reports {size}"
    if launched:
        problem += f" while {', '.join(launched)}"
        rule = "the launcher and MPI must share a process manager; here every process is a job of its own"
        fix = "`srun --mpi=pmi2` (MPICH family), `srun --mpi=pmix` (Open MPI), or mpiexec in place of srun or torchrun"
        raise ProgramMismatch(refusal(f"grid {shape}", problem, rule, (), fix))
    rule = "a program runs on exactly as many ranks as its grid has"
    fix = f"start it by `mpiexec -n {shape.size} python -m mpi4py ...`, or compile for a grid of {size}"
    raise ProgramMismatch(refusal(f"grid {shape}", problem, rule, (), fix))
