"""A program with its parameters: an `nn.Module` whose parameters are this rank's parts, under the model's own names.

    parallel = Parallel(PROGRAM, description, source)
    loss = parallel(**batch); loss.backward(); optimizer.step()      # a stock torch.optim over parallel.parameters()

The values come from a source, an iterable of (name, whole tensor or `Stored` tensor); one whole tensor at a time is
cut to this rank's part. Methods that return whole tensors, and the forward pass, are collective: every rank calls
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ProgramMismatch, refusal
from autopar.layout import Layouts
from autopar.runtime import inputs, norm, sources
from autopar.runtime.allocator import keep_freed_memory
from autopar.runtime.description import Described, Description
from autopar.runtime.gradients import BUCKET_BYTES, GradientSums
from autopar.runtime.namespace import Namespace
from autopar.runtime.program import Program, input_layouts, parameter_layouts
from autopar.runtime.rebalance import move
from autopar.runtime.sources import Source
from autopar.runtime.state import gather_whole, local_shape, view_part
from autopar.runtime.together import agree, together
from autopar.runtime.transport.world import simulated_world


class Parallel(nn.Module):
    """The model on a grid.

    Gradients of copied parameters lie in memory that the next backward pass overwrites, and that `rebalance` and `free`
    give back: clone what is to be kept for longer.

    Raises ProgramMismatch where program and description do not fit, CheckpointError for the source. `dtype` replaces
    every floating-point dtype of parameters, buffers and inputs. `state_dict` holds this rank's parts;
    `full_state_dict` the whole.
    """

    def __init__(
        self,
        program: Program,
        description: Description,
        source: Source,
        dtype: torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        super().__init__()
        self.program = program
        self.description = description
        self.grid = program.grid
        self._dtype = dtype
        if simulated_world() is None:
            keep_freed_memory()
        self._compared = False  # whether all ranks were given the same inputs in the first step
        with together(self.grid.comm, "setting up the program"):
            self._check_grid()
            self._inputs = input_layouts(program, description.inputs)
            self._layouts = parameter_layouts(program, description.parameters)
            self._homes = {item: self._layouts[item.name] for item in description.parameters}
            self._tensors = sources.load(source, self._homes, self.grid.axes, dtype)
        for item in description.parameters:
            for name in (item.name, *item.aliases):
                _register(self, name, self._tensors[item.name], item.kind)
        self._refresh()
        trained = {
            item.name: one
            for item in description.parameters
            if isinstance(one := self._tensors[item.name], nn.Parameter)
        }
        self._sums = GradientSums(self.grid, trained, self._layouts, bucket_bytes)

    @property
    def input_layouts(self) -> Mapping[str, Layouts]:
        """The layouts of each input over the grid's axes, for a loader that reads only its own part."""
        return MappingProxyType(self._inputs)

    @property
    def parameter_layouts(self) -> Mapping[str, Layouts]:
        """The layouts of each parameter and buffer over the grid's axes."""
        return MappingProxyType(self._layouts)

    @property
    def communication_seconds(self) -> float:
        """Wall seconds that this rank has spent inside communication calls so far."""
        return self.grid.comm.seconds + sum(axis.comm.seconds for axis in self.grid.axes) + self._sums.seconds

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        """The loss of a whole batch, of which this rank computes its part. Every rank passes the same whole inputs.

        Arguments are those of the model's forward. Raises ProgramMismatch, on all ranks, for another name, shape or
        dtype.
        """
        shapes = {item.name: item.shape for item in self.description.inputs}
        given = self._checked(args, kwargs, shapes)
        if not self._compared:
            inputs.check_alike(self.grid.comm, given)
            self._compared = True
        return self._step({name: view_part(one, self._inputs[name], self.grid.axes) for name, one in given.items()})

    def forward_parts(self, *args: object, **kwargs: object) -> Tensor:
        """`forward` for inputs of which every rank passes its own part only, as `input_layouts` says."""
        shapes = {item.name: self.input_shape(item.name) for item in self.description.inputs}
        return self._step(self._checked(args, kwargs, shapes))

    def input_shape(self, name: str) -> tuple[int, ...]:
        """The shape of this rank's part of an input, as the grid is cut now."""
        item = next(item for item in self.description.inputs if item.name == name)
        return local_shape(item.shape, self._inputs[name], self.grid.axes)

    def full_state_dict(self, *, rank0_only: bool = False) -> dict[str, Tensor]:
        """All parameters and buffers whole, under the model's own names, tied names included. Collective.

        With `rank0_only` the other ranks get an empty dict and hold one whole tensor at a time.
        """
        found: dict[str, Tensor] = {}
        for item, layouts in self._homes.items():
            if item.kind != "constant":
                whole = gather_whole(self._tensors[item.name], item.shape, layouts, self.grid.axes)
                if not rank0_only or self.grid.rank == 0:
                    found.update(dict.fromkeys((item.name, *item.aliases), whole))
        return found

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's parts of whole tensors, given on every rank. Raises CheckpointError. Collective."""
        homes = {item: layouts for item, layouts in self._homes.items() if item.kind != "constant"}
        with together(self.grid.comm, "loading the parameters"):
            loaded = sources.load(state.items(), homes, self.grid.axes, self._dtype)
        with torch.no_grad():
            for name, value in loaded.items():
                self._tensors[name].copy_(value)

    def full_gradients(self) -> dict[str, Tensor]:
        """The whole gradient of every parameter that has one, by name. Collective."""
        return {
            item.name: gather_whole(gradient, item.shape, layouts, self.grid.axes)
            for item, layouts in self._homes.items()
            if (gradient := self._tensors[item.name].grad) is not None
        }

    @property
    def bucket_sizes(self) -> list[int]:
        """The bytes of each sum of gradients, in the order in which they are summed."""
        return self._sums.bytes

    def accumulate(self) -> AbstractContextManager[None]:
        """Gradient accumulation: backward passes inside leave their sums over ranks to the first one after.

        with parallel.accumulate():
            for batch in batches[:-1]:
                (parallel(**batch) / len(batches)).backward()
        (parallel(**batches[-1]) / len(batches)).backward()
        """
        return self._sums.accumulate()

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
        """`torch.nn.utils.clip_grad_norm_` over the whole model; returns the norm before. Collective."""
        gradients = [
            (gradient, self._homes[item])
            for item in self._homes
            if (gradient := self._tensors[item.name].grad) is not None
        ]
        total = norm.global_norm(self.grid, gradients, float(norm_type))
        if error_if_nonfinite and not torch.isfinite(torch.tensor(total)):
            raise RuntimeError(f"the norm of order {norm_type} of all gradients is {total}, so they cannot be clipped")
        norm.scale(self.parameters(), total, float(max_norm))
        return torch.tensor(total, dtype=gradients[0][0].dtype if gradients else torch.float32)

    def rebalance(
        self, axis: str, cuts: Sequence[float] | None, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Cut `axis` at other fractions, moving what is sharded, optimizer state too. Collective, between steps."""
        names = [one.name for one in self.grid.axes]
        move(self.grid, names.index(axis), cuts, self._movable(), optimizer, self.description.filled)
        self._sums.rebuild()

    def free(self) -> None:
        """Give back what the gradient sums hold. The grid is the program's."""
        self._sums.free()

    def __repr__(self) -> str:
        here = sum(one.numel() for one in self.parameters())
        whole = sum(torch.Size(item.shape).numel() for item in self._homes if item.kind in ("parameter", "frozen"))
        grid = f"grid {str(self.grid.shape)!r}, rank {self.grid.rank}"
        return f"Parallel({self.description.name!r}, {grid}, {here} of {whole} parameters)"

    def _movable(self) -> list[tuple[Described, Layouts, Tensor]]:
        return [(item, layouts, self._tensors[item.name]) for item, layouts in self._homes.items()]

    def _checked(
        self, args: Sequence[object], kwargs: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Tensor]:
        described = self.description.inputs
        tensors: dict[str, Tensor] = {}
        error: ProgramMismatch | None = None
        try:
            tensors = inputs.check(described, inputs.bind(described, args, kwargs), shapes, self._dtype)
        except ProgramMismatch as refused:
            error = refused
        agree(self.grid.comm, "inputs of the step", error)
        return tensors

    def _step(self, parts: Mapping[str, Tensor]) -> Tensor:
        return self._sums.attach(self.program.forward(self._namespace, *(parts[name] for name in self.program.inputs)))

    def _check_grid(self) -> None:
        if str(self.grid.shape) != self.description.grid:
            given = f"the program is for grid {self.grid.shape}, the plan for {self.description.grid}"
            rule = "program.py and plan.json belong together"
            raise ProgramMismatch(refusal("GRID of the program", given, rule, fix="compile again"))

    def _refresh(self) -> None:
        """Look tensors up again by name: `to` and the like replace buffers."""
        current = dict(self.named_parameters()) | dict(self.named_buffers())
        self._tensors = {name: current[name] for name in self._tensors}
        every = {name: self._tensors[item.name] for item in self._homes for name in (item.name, *item.aliases)}
        self._namespace = Namespace(every)

    def _apply(self, fn: Any, recurse: bool = True) -> Parallel:  # noqa: ANN401 (torch's own signature)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._refresh()
        self._sums.rebuild()
        return self


def _register(root: nn.Module, name: str, tensor: Tensor, kind: str) -> None:
    """Put a tensor under a dotted name, with a module per component; names need not be identifiers."""
    *path, leaf = name.split(".")
    module = root
    for component in path:
        module = module._modules.setdefault(component, nn.Module()) or module
    if isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor
        if kind == "constant":
            module._non_persistent_buffers_set.add(leaf)
