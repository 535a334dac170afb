"""Forward and backward of a divided model in one call, and a loss whose own backward hands the gradients over.

loss = parallel(**batch)     all actions of the schedule, backward among them; gradients are kept aside
loss.backward()              autograd takes them, as those of any other loss: hooks, sums and accumulation are as usual
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autopar.ir.layout import even_bounds
from autopar.runtime.grid.grid import Grid
from autopar.runtime.parameters.precision import precise
from autopar.runtime.parameters.shards import local_shape, view_part
from autopar.runtime.pipeline.executor import Drawing, Executor, MicroBatch
from autopar.runtime.pipeline.handing import hand_over
from autopar.runtime.pipeline.replicas import Replicas
from autopar.runtime.pipeline.wiring import Wiring, wiring
from autopar.runtime.program.namespace import Namespace
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.plan_reader import Description, EdgeSpec
from autopar.runtime.program.program import Program
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.state import ModelState


def wiring_of(program: Program, description: Description) -> Wiring | None:
    """The checked tables of a divided program; None where it is whole. Raises ProgramMismatch, PlanError."""
    if not isinstance(program.forward, Pipeline):
        return None
    return wiring(program.forward, list(program.inputs), description.edges, program.grid.shape.positions)


def elsewhere_only(grid: Grid, positions: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The tensors that this rank's position does not hold, of those that are held on these positions."""
    here = grid.place.index if grid.place else 0
    return frozenset(name for name, held in positions.items() if here not in held)


class PipelinedStep:
    """A divided model on this rank: `trained` are the parameters of its position that have a gradient, by name."""

    def __init__(
        self,
        grid: Grid,
        wires: Wiring,
        program: BatchProgram,
        trained: Mapping[str, nn.Parameter],
        replicas: Replicas,
        dtype: torch.dtype | None,
    ) -> None:
        self._grid = grid
        self._wires = wires
        self._program = program
        self._trained = trained
        self._replicas = replicas
        self._dtype = dtype
        self._specs = {item.name: item for item in program.description.edges}
        self._executor = Executor(grid, wires, program.description.rows, dtype)

    @staticmethod
    def of(
        grid: Grid, wires: Wiring, program: BatchProgram, state: ModelState, dtype: torch.dtype | None
    ) -> PipelinedStep:
        """The step of a program. Collective: it makes communicators."""
        trained = {
            name: tensor
            for name, tensor in state.tensors.items()
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad
        }
        return PipelinedStep(
            grid, wires, program, trained, Replicas(grid, wires.positions(program.description.parameters)), dtype
        )

    def micro_batches(self, tensors: Mapping[str, Tensor], rows: int) -> list[MicroBatch]:
        """Whole inputs of so many rows in micro-batches, each as this rank's parts."""
        bounds = even_bounds(rows, min(self._wires.microbatches, max(rows, 1)))
        batched, layouts = self._program.description.batched, self._program.inputs
        return [
            MicroBatch(
                {
                    name: view_part(tensor[start:stop] if name in batched else tensor, layouts[name], self._grid.axes)
                    for name, tensor in tensors.items()
                },
                stop - start,
            )
            for start, stop in itertools.pairwise(bounds)
        ]

    def run(
        self, batches: Sequence[MicroBatch], namespace: Namespace, drawing: Drawing, trains: bool, seed: float = 1.0
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and this rank's parts of the outputs. Collective over the grid."""
        with self._aside() as gradients:
            made = self._executor.run(batches, namespace, drawing, seed, trains)
            loss, *outputs = [self._everywhere(name, made.get(name), batches) for name in self._wires.returns]
            if trains:
                gradients += self._replicas.summed(self._trained)
        if not trains:
            return loss, outputs
        return hand_over(loss, gradients, list(self._trained.values()), seed), outputs

    @contextmanager
    def _aside(self) -> Iterator[list[Tensor | None]]:
        """Gradients of earlier steps out of the way, and those of this one taken off the parameters."""
        earlier = [parameter.grad for parameter in self._trained.values()]
        for parameter in self._trained.values():
            parameter.grad = None
        try:
            yield []
        finally:
            for parameter, gradient in zip(self._trained.values(), earlier, strict=True):
                parameter.grad = gradient

    def _everywhere(self, name: str, parts: Sequence[Tensor] | None, batches: Sequence[MicroBatch]) -> Tensor:
        """What one position returns, on all of them: the sum of the losses, or outputs one behind the other."""
        assert self._grid.place is not None
        spec, maker = self._specs[name], self._wires.segments[self._wires.makers[name]].at
        rows = sum(batch.rows for batch in batches)
        if parts is None:
            tensor = torch.empty(self._shape(spec, rows), dtype=precise(spec.dtype, self._dtype))
        elif name == self._wires.returns[0]:
            tensor = torch.stack(tuple(parts)).sum(0)
        else:
            tensor = torch.cat(tuple(parts), spec.rows[0]) if spec.rows and len(parts) > 1 else parts[-1]
        tensor = tensor.contiguous()
        self._grid.place.comm.broadcast(tensor, maker)
        return tensor

    def _shape(self, spec: EdgeSpec, rows: int) -> tuple[int, ...]:
        planned, layouts = self._program.description.rows, self._program.outputs.get(self._path(spec.name))
        whole = [n * rows // planned if dim in spec.rows else n for dim, n in enumerate(spec.shape)]
        return local_shape(whole, layouts, self._grid.axes) if layouts is not None else tuple(whole)

    def _path(self, name: str) -> str:
        """The path of an output in what the model returns."""
        return dict(zip(self._wires.returns[1:], self._program.outputs, strict=True)).get(name, "")
