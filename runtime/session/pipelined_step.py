"""Forward and backward of a divided model in one call, and a loss whose own backward hands the gradients over.

loss = parallel(**batch)     all actions of the schedule, backward among them; gradients are kept aside
loss.backward()              autograd takes them, as those of any other loss: hooks, sums and accumulation are as usual
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.runtime.grid.counter_rng import DrawnTensor
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import local_shape
from autopar.runtime.pipeline.executor import Executor, SegmentInputs, device_of
from autopar.runtime.pipeline.microbatches import apart, counted, handed
from autopar.runtime.pipeline.replicas import Replicas
from autopar.runtime.pipeline.wiring import Wiring, check_tags, wiring
from autopar.runtime.program.namespace import Namespace
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.plan_reader import Description, EdgeSpec, dtype_of
from autopar.runtime.program.program import Program
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.microbatched_step import StepCall


def wiring_of(program: Program, description: Description) -> Wiring | None:
    """The checked tables of a divided program; None where it is whole. Raises ProgramMismatch, PlanError."""
    if not isinstance(program.forward, Pipeline):
        return None
    wires = wiring(program.forward, list(program.inputs), description.edges, program.grid.shape.positions)
    planned = description.division.microbatches if description.division is not None else 1
    if wires.microbatches != planned:
        problem = f"lists for {wires.microbatches} micro-batches, and a plan for {planned}"
        rule = "the lists have every action of the micro-batches that the program was compiled for"
        raise ProgramMismatch(refusal("SCHEDULE of the program", problem, rule, fix="mend the lists, or compile again"))
    return wires


def check_positions(wires: Wiring | None, description: Description, holders: Holders) -> None:
    """Raise ProgramMismatch where a program for other batches has parameters elsewhere than the first one has them."""
    if wires is not None:
        stored = [item for item in description.parameters if item.kind != "constant"]
        found = wires.positions(stored)
        lines = [
            f"{item.name}: on {found[item.name]}, not {holders.of(item.name)}"
            for item in stored
            if found[item.name] != holders.of(item.name)
        ]
        if lines:
            rule = "programs for several numbers of rows share their parameters, which lie on the same positions"
            where = f"the program for {description.rows} rows"
            fix = "pin modules to positions alike (--pin 'h.0.*: stage=0')"
            raise ProgramMismatch(refusal(where, "its parameters are elsewhere", rule, lines[:10], fix))


class PipelinedStep:
    """A divided model on this rank."""

    def __init__(
        self, grid: Grid, wires: Wiring, program: BatchProgram, replicas: Replicas, dtype: torch.dtype | None
    ) -> None:
        division = program.description.division
        self._grid = grid
        self._wires = wires
        self._program = program
        self._replicas = replicas
        self._dtype = dtype
        self._rows = program.description.rows if division is None else division.rows  # that edges are described for
        self._specs = {item.name: item for item in program.description.edges}
        self._drawn: dict[int, DrawnTensor] = {}
        self.executor = Executor(grid, wires, self._rows, dtype)

    @staticmethod
    def of(grid: Grid, wires: Wiring, program: BatchProgram, dtype: torch.dtype | None) -> PipelinedStep:
        """The step of a program. Collective: it makes communicators. Raises ConfigError where there are too many tags."""
        assert grid.place is not None
        check_tags(wires, grid.place.comm.largest_tag)
        positions = wires.positions(program.description.parameters)
        return PipelinedStep(grid, wires, program, Replicas(grid, positions), dtype)

    def run(self, call: StepCall) -> tuple[Tensor, list[list[Tensor]]]:
        """The loss, and this rank's parts of the outputs of every micro-batch. Collective over the grid.

        Raises ConfigError where there are more micro-batches than the lists have.
        """
        if len(call.every) > self._wires.microbatches:
            problem = f"a batch of {call.every[0].rows} rows, {len(call.every)} micro-batches"
            rule = f"the lists of a divided program have {self._wires.microbatches}"
            raise ConfigError(refusal("inputs of the step", problem, rule, fix="drop or divide such a batch"))
        self._check_type(call.tensors)
        leaves = apart(call.tensors) if call.trains else dict(call.tensors)
        trained = [leaf for name, leaf in leaves.items() if leaf is not call.tensors[name]]
        namespace = Namespace(leaves, call.current)
        results = self.executor.run(self._batches(call, namespace), namespace, trained, call.seed, trains=call.trains)
        self._drawn = results.drawn
        made = {name: self._everywhere(name, results.returned.get(name, {}), call) for name in self._wires.returns}
        losses, *outputs = made.values()
        parts = [list(row) for row in zip(*outputs, strict=True)]
        loss = torch.stack(losses).sum(0)
        if call.trains:
            self._replicas.sum(leaves)
            loss = handed(loss, call.tensors, leaves, call.seed)
        return loss, parts

    def drawn(self) -> tuple[DrawnTensor, ...]:
        """The random tensors of the last call's first micro-batch, on all positions together. Collective."""
        assert self._grid.place is not None
        mine = [[number, kind, list(shape)] for number, (kind, shape) in self._drawn.items()]
        rows = [row for theirs in self._grid.place.comm.gather_objects(mine) for row in theirs]  # type: ignore[attr-defined]
        return tuple((kind, tuple(shape)) for _, kind, shape in sorted(rows))

    def _check_type(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ConfigError where the model has been put into another precision since: positions would send what none expects."""
        described = {item.name: item for item in self._program.description.parameters}
        first = next((name for name in tensors if name in described), None)
        if first is not None and tensors[first].dtype != precise(described[first].dtype, self._dtype):
            rule = "the precision of a divided program is that in which it was made, on all positions"
            fix = "make it with dtype=..., as in parallel(job, seed, torch.float64)"
            raise ConfigError(refusal("inputs of the step", f"{first} is {tensors[first].dtype}", rule, fix=fix))

    @property
    def seconds(self) -> float:
        """Wall seconds that this rank has spent in sums over replicas so far."""
        return self._replicas.seconds

    def free(self) -> None:
        """Give the communicators back."""
        self._replicas.free()

    def _batches(self, call: StepCall, namespace: Namespace) -> list[SegmentInputs]:
        """What the executor takes; counts of the whole batch are among the inputs, under their names."""
        training, counts = call.current.training, self._counts(call, namespace)
        return [
            SegmentInputs(
                {**own, **counts},
                one.size,
                partial(one.enter, call.current, training=training),
                partial(call.drawing, rows=one.place),
            )
            for one, own in zip(call.every, call.inputs, strict=True)
        ]

    def _counts(self, call: StepCall, namespace: Namespace) -> dict[str, Tensor]:
        """The counts of the whole batch that segments of this position read, by name."""
        program, division = self._program.program, self._program.description.division
        names = self._wires.counted
        here = {name for segment in self._wires.segments if segment.at == self._place for name in segment.reads}
        if program.counts is None or division is None or not here.intersection(names):
            return {}
        inputs = [[own[name] for name in program.inputs] for own in call.inputs]
        dtypes = [precise(dtype_of(name), self._dtype) for name in division.counts]
        return dict(
            zip(names, counted(program.counts, namespace, call.current, call.every, inputs, dtypes), strict=True)
        )

    @property
    def _place(self) -> int:
        assert self._grid.place is not None
        return self._grid.place.index

    def _everywhere(self, name: str, parts: Mapping[int, Tensor], call: StepCall) -> list[Tensor]:
        """What one position returns of every micro-batch, on all of them."""
        assert self._grid.place is not None
        spec, maker = self._specs[name], self._wires.segments[self._wires.makers[name]].at
        dtype, device = precise(spec.dtype, self._dtype), device_of(call.inputs[0])
        made = [
            parts[m].contiguous() if parts else torch.empty(self._shape(spec, one.size), dtype=dtype, device=device)
            for m, one in enumerate(call.every)
        ]
        if not spec.shape:  # scalars, in one message
            together = torch.stack(made)
            self._grid.place.comm.broadcast(together, maker)
            return list(together.unbind())
        for tensor in made:
            self._grid.place.comm.broadcast(tensor, maker)
        return made

    def _shape(self, spec: EdgeSpec, rows: int) -> tuple[int, ...]:
        layouts = self._program.outputs.get(self._path(spec.name))
        whole = [n * rows // self._rows if dim in spec.rows else n for dim, n in enumerate(spec.shape)]
        return local_shape(whole, layouts, self._grid.axes) if layouts is not None else tuple(whole)

    def _path(self, name: str) -> str:
        """The path of an output in what the model returns."""
        return dict(zip(self._wires.returns[1:], self._program.outputs, strict=True)).get(name, "")
