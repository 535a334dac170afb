"""A program with its parameters: an `nn.Module` whose parameters are this rank's parts, under the model's own names.

    parallel = Parallel(PROGRAM, description, source)
    loss = parallel(**batch); loss.backward(); optimizer.step()      # a stock torch.optim over parallel.parameters()

The values come from a source, an iterable of (name, whole tensor or `Stored` tensor); one whole tensor at a time is
cut to this rank's part. Methods that return whole tensors, and the forward pass, are collective: every rank calls
them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.ir.bucketing import BUCKET_BYTES
from autopar.ir.layout import Layouts
from autopar.ir.pipeline.schedule import ActionLists
from autopar.runtime.data.input_part import InputPart, input_part
from autopar.runtime.diagnostics.collective_errors import together
from autopar.runtime.grid.counter_rng import DrawnTensor, drawing
from autopar.runtime.parameters import sources
from autopar.runtime.parameters.grad_scaler import GradScaler
from autopar.runtime.parameters.gradient_buckets import GradientSums
from autopar.runtime.parameters.holders import Holders
from autopar.runtime.parameters.moving.contents import Optimizers
from autopar.runtime.parameters.moving.legal_cuts import Boundaries, differences
from autopar.runtime.parameters.sources import Source
from autopar.runtime.pipeline.executor import TimedAction
from autopar.runtime.pipeline.microbatch_queue import MicrobatchQueue
from autopar.runtime.process import set_allocator
from autopar.runtime.program.namespace import CurrentCall, Namespace, register
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.plan_reader import Description, MinimumRows
from autopar.runtime.program.program import Program
from autopar.runtime.session import batch_programs, copies, microbatched_step
from autopar.runtime.session.batch_programs import BatchProgram
from autopar.runtime.session.inputs import InputBinding, refused_rows
from autopar.runtime.session.microbatched_step import MadeOutputs, StepCall
from autopar.runtime.session.outputs import OutputParts, Outputs
from autopar.runtime.session.pipelined_step import PipelinedStep, check_positions, wiring_of
from autopar.runtime.session.predicting import PredictingModel
from autopar.runtime.session.state import ModelState
from autopar.runtime.transport.world import simulated_world


class Parallel(PredictingModel):
    """The model on a grid.

    Gradients of copied parameters lie in memory that the next backward pass overwrites, and that `rebalance` and `free`
    give back: clone what is to be kept for longer. Sums over ranks are made at the end of every backward pass, or once for
    all of those inside `no_sync` and the one after.

    A batch may have any number of rows (`description.fixed` says why not). `eval()` and `train()` are as usual
    (`description.evaluation` and `training` say why not); it starts in the mode in which the model was compiled. Clip by
    `clip_grad_norm_` here: torch's own sees this rank's part only.

    Raises ProgramMismatch where program and description do not fit, CheckpointError for the source. `dtype` replaces
    every floating-point dtype of parameters, buffers and inputs. Dropout draws by `seed` and the number of calls in
    training so far. `state_dict` holds this rank's parts with both, `full_state_dict` the whole, as the model itself has it.
    """

    def __init__(
        self,
        program: Program,
        description: Description,
        source: Source,
        dtype: torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.program = program
        self.description = description
        self.grid = program.grid
        self._dtype = dtype
        self._call = CurrentCall(description.rows)
        self.seed = seed
        self._scaler: weakref.ref[GradScaler] | None = None
        self._steps = 0  # calls in training so far: random numbers differ from call to call
        self._drawn: tuple[DrawnTensor, ...] = ()
        self._last: PipelinedStep | None = None  # of the last call
        self._moved, self._homes = {}, {}
        self._past = 0.0  # seconds in communicators that are no more
        self._copies = weakref.WeakSet([self])  # all models on this grid that are copies of each other
        if simulated_world() is None:
            set_allocator(gives_back=description.gives_back(self.grid.rank))
        with together(self.grid.comm, "setting up the program"):
            self._programs = [batch_programs.batch_program(program, description)]
            self._inputs, self._layouts = self._programs[0].inputs, self._programs[0].parameters
            wires = wiring_of(program, description)
            positions = wires.positions(description.parameters) if wires else {}
            layouts = {item: self._layouts[item.name] for item in description.parameters}
            holders = Holders(self.grid.outer, positions)
            tensors = sources.load(source, layouts, self.grid.axes, dtype, program.filters, holders)
        if isinstance(source, sources.ComparedSource):
            source.check(self.grid.comm)
        self._state = ModelState(self.grid, layouts, tensors, dtype, holders)
        self._register()
        self._refresh()
        self._sums = GradientSums(self.grid, self._parameters_here(), self._layouts, bucket_bytes)
        self._pipelined = [PipelinedStep.of(self.grid, wires, self._programs[0], dtype) if wires else None]
        self._queue = MicrobatchQueue(self.grid) if self.grid.queue is not None else None
        rarely = not all(parameter.is_cpu for parameter in self._parameters_here().values())
        self._binding = InputBinding(self.grid, description, self._inputs, rarely)
        if description.evaluates:
            super().train(False)

    @property
    def input_layouts(self) -> Mapping[str, Layouts]:
        """The layouts of each input over the grid's axes, for a loader that reads only its own part."""
        return MappingProxyType(self._inputs)

    @property
    def parameter_layouts(self) -> Mapping[str, Layouts]:
        """The layouts of each parameter and buffer over the grid's axes."""
        return MappingProxyType(self._layouts)

    @property
    def drawn(self) -> tuple[DrawnTensor, ...]:
        """The random tensors of the last call. Collective where the graph is divided, or micro-batches are drawn from a queue."""
        if self._queue is not None:
            return self._queue.first(self._drawn)
        return self._drawn if self._last is None else self._last.drawn()

    def train(self, mode: bool = True) -> Parallel:
        """Training or evaluation, as of any module. Raises ConfigError where the model's own would lead elsewhere."""
        if not mode and self.description.evaluation:
            rule = "batch norm by running statistics and no dropout: other differences need a program of their own"
            fix = "evaluate the model itself: model.load_state_dict(parallel.full_state_dict())"
            raise ConfigError(refusal("evaluation", self.description.evaluation, rule, fix=fix))
        if mode and self.description.training:
            rule = "the program is for the model as it stood when it was compiled, with these modules in evaluation"
            fix = (
                "compile it after model.train(); what is to stay in evaluation then, the model's own train() keeps so: "
                "def train(self, mode=True): super().train(mode); self.norm.eval(); return self"
            )
            raise ConfigError(refusal("training", self.description.training, rule, fix=fix))
        super().train(mode)
        return self

    @property
    def communication_seconds(self) -> float:
        """Wall seconds that this rank has spent inside communication calls so far."""
        groups = [self.grid.comm, *(axis.comm for axis in self.grid.axes), *self.grid.outer_comms]
        divided = sum(step.seconds for step in self._pipelined if step is not None)
        return sum(comm.seconds for comm in groups) + divided + self._sums.seconds + self._past

    @property
    def segment_seconds(self) -> tuple[float, ...]:
        """Wall seconds of each segment's actions on this rank since it stands where it does, without waits; empty without any."""
        rows = [step.executor.worked for step in self._pipelined if step is not None]
        return tuple(map(sum, zip(*rows, strict=True)))

    def forward(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 (a tensor, or `Outputs`)
        """The loss of a whole batch, of which this rank computes its part. Every rank passes the same whole inputs.

        A program that was compiled for further outputs returns `Outputs`: the loss and these, as the model names them.
        Arguments are those of the model's forward. Raises ProgramMismatch, on all ranks, for another name, shape or
        dtype.
        """
        batch = self._binding.whole(args, kwargs, self._dtype)
        chosen = self._program_for(batch.rows, batch.tensors)
        self._binding.compare(batch)
        if self._divided(chosen) is not None or chosen.description.division is not None:
            return self._microbatches(chosen, batch.rows, microbatched_step.whole(chosen, batch, self.grid.axes))
        return self._step(chosen, batch.rows, self._binding.parts(batch, chosen.inputs))

    def forward_parts(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """`forward` for inputs of which every rank passes its own part only, as `input_layouts` and `input_shape` say.

        Raises ConfigError on a grid with a queue: a replica may compute any part of the batch.
        """
        if self._queue is not None:
            raise self._queue.refused_parts()
        rows, arguments, error = self._binding.own(args, kwargs)
        chosen = self._program_for(rows, None)
        part = self.input_part(rows)
        shapes = {name: part.shape(name) for name in part.names}
        parts = self._binding.checked_parts(arguments, shapes, error, self._dtype)
        if self._divided(chosen) is not None or chosen.description.division is not None:
            return self._microbatches(chosen, rows, microbatched_step.own(chosen, rows, parts, self.grid.axes))
        return self._step(chosen, rows, parts)

    def input_shape(self, name: str, batch: int | None = None) -> tuple[int, ...]:
        """The shape of this rank's part of an input, as the grid is cut now, for a whole batch of so many rows.

        Where a batch is divided into micro-batches, a part is its rows of every micro-batch, one after another: a micro-batch is
        some neighbouring rows of the batch, `description.microbatches` says which, of which every rank has its part.
        """
        return self.input_part(batch).shape(name)

    def input_part(self, batch: int | None = None) -> InputPart:
        """Which rows of every input are this rank's, as the grid is cut now: what a loader for `forward_parts` has to read."""
        return input_part([(one.description, one.inputs) for one in self._programs], self.grid.axes, batch)

    def recording_actions(self) -> AbstractContextManager[list[TimedAction]]:
        """Note what this rank does in the steps of a divided program in the context: actions, their times and waits."""
        if self._pipelined[0] is None:
            rule = "a program whose graph is divided over positions has actions"
            raise ConfigError(refusal("actions", f"grid {self.grid.shape} has no place axis", rule))
        return self._pipelined[0].executor.recording()

    def grad_scaler(self, **options: Any) -> GradScaler:  # noqa: ANN401 (torch's options)
        """A `torch.amp.GradScaler` for float16, whose verdict about an overflow is the same on all ranks."""
        scaler = GradScaler(self.grid.comm, **options)
        self._scaler = weakref.ref(scaler)
        return scaler

    def rebalance(self, cuts: Boundaries, optimizer: Optimizers = None) -> None:
        """Cut axes at other fractions, between steps, and move what is sharded over them. Collective. Raises ConfigError."""
        copies.check_alone(len(self._copies))
        moved = differences(self.grid.axes, cuts)
        self._state.move(cuts, optimizer, self.filled, self.description, self.program.filters)
        self._sums.rebuild(moved)

    def objections(self, cuts: Boundaries, optimizer: Optimizers = None) -> list[str]:
        """What speaks against cutting axes so, a line for each offender; nothing where `rebalance` would."""
        lines = copies.objections(len(self._copies))
        return lines or self._state.objections(cuts, optimizer, self.filled, self.description)

    def moved_bytes(self, cuts: Boundaries, optimizer: Optimizers = None) -> list[int]:
        """The bytes that each rank at this place would send if axes were cut so."""
        return self._state.moved_bytes(cuts, optimizer)

    def move_segments(
        self, moves: Mapping[int, int], optimizer: Optimizers = None, lists: ActionLists | None = None
    ) -> None:
        """Put segments, by number, on other positions, with parameters, gradients and optimizer state. Collective, between steps.

        The schedule is found anew unless `lists` are given. Raises ConfigError and InfeasiblePlan, and leaves all as it was.
        """
        from autopar.runtime.session import segment_moves  # most programs move none, and load no search for schedules

        moved = segment_moves.relocated(self.grid, self._programs, moves, lists)
        self._state.relocate(moved.holders, optimizer)
        self._programs = list(moved.programs)
        self._note_moves(moves)
        self.program = replace(self.program, forward=moved.programs[0].program.forward)
        for old in self._pipelined:
            assert old is not None
            self._past += old.seconds
            old.free()
        steps = zip(moved.wires, self._programs, strict=True)
        self._pipelined = [PipelinedStep.of(self.grid, wires, each, self._dtype) for wires, each in steps]
        self._register()
        self._refresh()
        self._sums.hold(self._parameters_here(), segment_moves.in_words(moves))

    def free(self) -> None:
        """Give back what the gradient sums hold. The grid is the program's."""
        self._sums.free()
        for step in (self._queue, *self._pipelined):
            if step is not None:
                step.free()

    def __repr__(self) -> str:
        grid = f"grid {str(self.grid.shape)!r}, rank {self.grid.rank}"
        return f"Parallel({self.description.name!r}, {grid}, {self._state.extent()})"

    def add(self, program: Program, description: Description, constants: Source) -> None:
        """Take batches of the sizes of this program as well, which is of the same model over the same parameters. Collective.

        Raises ProgramMismatch where it is not, and CheckpointError for its constants.
        """
        with together(self.grid.comm, f"setting up the program for {description.rows} rows"):
            added = batch_programs.batch_program(program, description)
        if self._moved:
            from autopar.runtime.session import segment_moves

            added = segment_moves.relocated(self.grid, [added], self._moved, None).programs[0]
        with together(self.grid.comm, f"setting up the program for {description.rows} rows"):
            other, own = batch_programs.sharing_parameters(self._programs[0], added)
            wires = wiring_of(added.program, description)
            check_positions(wires, other.description, self._state.holders)
            values, everywhere = batch_programs.own_constants(other, constants), Holders(self.grid.outer)
            loaded = sources.load(values, own, self.grid.axes, self._dtype, holders=everywhere)
        for name, tensor in loaded.items():
            register(self, name, tensor, "constant")
        self._state.layouts |= own
        self._state.tensors |= loaded
        self._programs.append(other)
        self._pipelined.append(PipelinedStep.of(self.grid, wires, other, self._dtype) if wires else None)
        self._refresh()

    @property
    def filled(self) -> tuple[MinimumRows, ...]:
        """The factors of which every rank must hold a row, see `autopar.runtime.parameters.minimum_rows`."""
        return tuple(dict.fromkeys(rows for program in self._programs for rows in program.description.filled))

    def _program_for(self, rows: int, tensors: Mapping[str, Tensor] | None) -> BatchProgram:
        """The program for a batch of so many rows; `tensors` are whole inputs. Collective.

        Raises, alike on every rank, ProgramMismatch where none was compiled for them, and ConfigError where so few
        leave a rank without one that needs one.
        """
        self._advance_save()
        fitting = (program for program in self._programs if program.fits(rows, tensors or {}))
        having = tuple(n for n in self.description.batched if tensors is None or tensors[n].shape[0] == rows)
        chosen = next(fitting, None) or self._another_program(rows, having)
        batch_programs.check_minimum_rows(chosen, rows, self.grid.axes)
        return chosen

    def _another_program(self, rows: int, having: Sequence[str]) -> BatchProgram:
        """A program for so many rows in these inputs. Collective."""
        raise refused_rows([program.description for program in self._programs], rows)

    def _step(self, chosen: BatchProgram, rows: int, parts: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
        program, known = self.program if chosen is self._programs[0] else chosen.program, chosen.description
        assert not isinstance(program.forward, Pipeline), "a divided program takes its steps otherwise"
        self._call.batch, self._call.training = rows, self.training
        self._steps += self.training
        with drawing(self.seed, self._steps, self.training) as draws:
            returned = program.forward(self._namespaces[known.rows], *(parts[name] for name in program.inputs))
        self._drawn = tuple(draws.drawn)
        if not program.outputs:
            return self._sums.attach(returned)
        loss, *others = returned
        made = batch_programs.output_parts(chosen, others, rows, self.grid.axes)
        own = {name: OutputParts(partial(tuple, (part,))) for name, part in made.items()}
        return Outputs(self.description.loss, self._sums.attach(loss), own)

    def _microbatches(self, chosen: BatchProgram, rows: int, inputs: Sequence[Mapping[str, Tensor]]) -> Any:  # noqa: ANN401
        """A step in micro-batches, of which `inputs` are this rank's parts. Its backward is run at once, in training."""
        program, divided = self.program if chosen is self._programs[0] else chosen.program, self._divided(chosen)
        self._call.training = self.training
        self._steps += self.training
        chosen, numbers = replace(chosen, program=program), partial(drawing, self.seed, self._steps, self.training)
        trains = torch.is_grad_enabled() and (self.training or self.description.evaluates)
        every = microbatched_step.microbatches(chosen, rows)
        tensors = self._tensors(chosen)
        queued = self._queue.step(len(every), tensors) if self._queue is not None else None
        call = StepCall(every, inputs, tensors, self._call, numbers, trains, self._scale(), queued)
        made: Mapping[int, Sequence[Tensor]]
        self._last = divided
        if divided is not None:
            loss, parts = divided.run(call)
            made = dict(enumerate(parts))
        else:
            loss, made, self._drawn = microbatched_step.accumulated(chosen, call, self._dtype)
        loss = self._sums.attach(loss)
        if not program.outputs:
            return loss
        outputs = MadeOutputs(chosen, every, made, self.grid.axes, self._dtype, queued)
        return Outputs(self.description.loss, loss, outputs.named())

    def _divided(self, chosen: BatchProgram) -> PipelinedStep | None:
        """The steps of a program whose graph is divided."""
        return self._pipelined[next(i for i, program in enumerate(self._programs) if program is chosen)]

    def _scale(self) -> float:
        """What losses will be scaled by: gradients that are computed before `backward` is called are to be, too."""
        scaler = self._scaler() if self._scaler is not None else None
        return scaler.get_scale() if scaler is not None and scaler.is_enabled() else 1.0

    def _tensors(self, program: BatchProgram) -> dict[str, Tensor]:
        """The tensors of a program, by its names, of which this position has some."""
        tensors = self._state.tensors
        return {name: tensors[own] for name, own in program.names.items() if own in tensors}

    def _refresh(self) -> None:
        """Look tensors up again by name: `to` and the like replace buffers."""
        current = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        self._state.tensors = {name: current[name] for name in self._state.tensors}
        self._namespaces = {
            program.description.rows: Namespace(self._tensors(program), self._call) for program in self._programs
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Parallel:
        """A model of its own on the same grid, with this rank's values, without gradients and hooks. Collective."""
        first = {item: how for item, how in self._state.layouts.items() if item in set(self.description.parameters)}
        copy = self._another(copies.parts(first, self._state.tensors))
        for program in self._programs[1:]:
            copy.add(program.program, program.description, self._tensors(program).items())
        copies.like(copy._state.tensors, self._state.tensors)
        copy._refresh()
        copy._sums.hold(copy._parameters_here())
        copy._steps, copy.training, copy._copies = self._steps, self.training, self._copies
        self._copies.add(copy)
        memo[id(self)] = copy
        return copy

    def _another(self, source: Source) -> Parallel:
        """A model by the same program from other values."""
        return Parallel(self.program, self.description, source, self._dtype, seed=self.seed)

    def _apply(self, fn: Any, recurse: bool = True) -> Parallel:  # noqa: ANN401 (torch's own signature)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._refresh()
        self._sums.rebuild()
        return self
