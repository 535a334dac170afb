"""A program with its parameters: an `nn.Module` whose parameters are this rank's parts, under the model's own names.

    parallel = Parallel(PROGRAM, description, source)
    loss = parallel(**batch); loss.backward(); optimizer.step()      # a stock torch.optim over parallel.parameters()

The values come from a source, an iterable of (name, whole tensor or `Stored` tensor); one whole tensor at a time is
cut to this rank's part. Methods that return whole tensors, and the forward pass, are collective: every rank calls
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.ir.bucketing import BUCKET_BYTES
from autopar.ir.layout import Layouts, Shard
from autopar.jobs.environment import settings
from autopar.runtime.diagnostics.collective_errors import agree, together
from autopar.runtime.grid.counter_rng import Drawn, drawing
from autopar.runtime.parameters import grad_norm, optimizer_state, sources
from autopar.runtime.parameters.grad_scaler import GradScaler
from autopar.runtime.parameters.gradient_buckets import GradientSums
from autopar.runtime.parameters.reshard import move
from autopar.runtime.parameters.shards import cuts, gather_gradients, gather_whole, local_shape, view_part
from autopar.runtime.parameters.sources import Source
from autopar.runtime.process import keep_freed_memory
from autopar.runtime.program.namespace import Call, Namespace, register
from autopar.runtime.program.plan_reader import Described, Description
from autopar.runtime.program.program import Program
from autopar.runtime.session import batch_forms, inputs
from autopar.runtime.session.batch_forms import Form
from autopar.runtime.session.outputs import Outputs
from autopar.runtime.transport.base import Comm
from autopar.runtime.transport.world import simulated_world

RANDOM = "random"  # where a whole optimizer state has the seed and the steps
_RARELY = 16  # calls after which a batch on a device, whose elements take time to look at, is compared again


class Parallel(nn.Module):
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
        self._free = description.batched  # the inputs that may have another number of rows
        self._call = Call(description.rows)
        self.seed = seed
        self._steps = 0  # calls in training so far: random numbers differ from call to call
        self.drawn: tuple[Drawn, ...] = ()  # the random tensors of the last call
        if simulated_world() is None:
            keep_freed_memory()
        self._calls = 0  # with whole inputs, which all ranks are to give alike
        self._checks = settings().check
        with together(self.grid.comm, "setting up the program"):
            self._forms = [batch_forms.form(program, description)]
            self._inputs, self._layouts = self._forms[0].inputs, self._forms[0].parameters
            self._homes = {item: self._layouts[item.name] for item in description.parameters}
            self._tensors = sources.load(source, self._homes, self.grid.axes, dtype, program.filters)
        if isinstance(source, sources.Made):
            source.check(self.grid.comm)
        for item in description.parameters:
            for name in (item.name, *item.aliases):
                register(self, name, self._tensors[item.name], item.kind)
        self._refresh()
        trained = {
            item.name: one
            for item in description.parameters
            if isinstance(one := self._tensors[item.name], nn.Parameter)
        }
        self._sums = GradientSums(self.grid, trained, self._layouts, bucket_bytes)
        self._sampled = 1 if all(one.is_cpu for one in trained.values()) else _RARELY
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
        return self.grid.comm.seconds + sum(axis.comm.seconds for axis in self.grid.axes) + self._sums.seconds

    def forward(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 (a tensor, or `Outputs`)
        """The loss of a whole batch, of which this rank computes its part. Every rank passes the same whole inputs.

        A program that was compiled for further outputs returns `Outputs`: the loss and these, as the model names them.
        Arguments are those of the model's forward. Raises ProgramMismatch, on all ranks, for another name, shape or
        dtype.
        """
        given, error = self._checked(args, kwargs, {item.name: item.shape for item in self.description.inputs})
        rows = self._rows(given)
        sampled = self._calls % self._sampled == 0
        alike = inputs.agree_on_rows(self.grid.comm, rows, error, inputs.sample(given, self._calls) if sampled else 0)
        form = self._form(rows, given)
        if self._calls == 0 or self._checks or not alike:
            inputs.check_alike(self.grid.comm, given, self._calls)
        self._calls += 1
        self._call.batch = rows
        parts = {name: view_part(one, form.inputs[name], self.grid.axes) for name, one in given.items()}
        return self._step(form, parts)

    def forward_parts(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        """`forward` for inputs of which every rank passes its own part only, as `input_layouts` and `input_shape` say."""
        given, error = self._checked(args, kwargs, None)
        batch = self._whole_rows(given)
        form = self._form(batch, None)
        if error is None:
            try:
                shapes = {item.name: self.input_shape(item.name, batch) for item in self.description.inputs}
                inputs.check(self.description.inputs, given, shapes, self._dtype)
            except ProgramMismatch as refused:
                error = refused
        agree(self.grid.comm, "inputs of the step", error)
        self._call.batch = batch
        return self._step(form, given)

    def input_shape(self, name: str, batch: int | None = None) -> tuple[int, ...]:
        """The shape of this rank's part of an input, as the grid is cut now, for a whole batch of so many rows."""
        item = next(item for item in self.description.inputs if item.name == name)
        shape = item.shape if batch is None or name not in self._free else (batch, *item.shape[1:])
        form = next(
            (one for one in self._forms if batch is not None and one.description.accepts(batch)), self._forms[0]
        )
        return local_shape(shape, form.inputs[name], self.grid.axes)

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
            given = sources.Made(state.items())
            loaded = sources.load(given, homes, self.grid.axes, self._dtype)
        given.check(self.grid.comm)
        with torch.no_grad():
            for name, value in loaded.items():
                self._tensors[name].copy_(value)

    def get_extra_state(self) -> Tensor:
        """What `state_dict` holds beside tensors of the model: the seed and the steps, by which random numbers are drawn."""
        return torch.tensor([self.seed, self._steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the random numbers of another run."""
        self.seed, self._steps = state.tolist()

    def full_gradients(self) -> dict[str, Tensor]:
        """The whole gradient of every parameter that has one on some rank, by name. Collective."""
        held = [(item.name, self._tensors[item.name], item.shape, layouts) for item, layouts in self._homes.items()]
        return gather_gradients(held, self.grid)

    @property
    def bucket_sizes(self) -> list[int]:
        """The bytes of each sum of gradients, in the order in which they are summed."""
        return self._sums.bytes

    def sums_over(self, other: Callable[[Comm, int], Comm]) -> AbstractContextManager[None]:
        """Sums of gradients over other communicators: what `other` makes of that of each bucket, by its number."""
        return self._sums.over(other)

    def accumulate(self) -> AbstractContextManager[None]:
        """Gradient accumulation: backward passes inside leave their sums over ranks to the first one after.

        with parallel.accumulate():
            for batch in batches[:-1]:
                (parallel(**batch) / len(batches)).backward()
        (parallel(**batches[-1]) / len(batches)).backward()
        """
        return self._sums.accumulate()

    def no_sync(self) -> AbstractContextManager[None]:
        """`accumulate`, by the name that `torch.nn.parallel.DistributedDataParallel` gives it."""
        return self.accumulate()

    def grad_scaler(self, **options: Any) -> GradScaler:  # noqa: ANN401 (torch's options)
        """A `torch.amp.GradScaler` for float16, whose verdict about an overflow is the same on all ranks."""
        return GradScaler(self.grid.comm, **options)

    def full_optimizer_state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimizer over these parameters, whole, by parameter names, and of random numbers. Collective."""
        return optimizer_state.full(optimizer, self._owners(), self.grid.axes) | {
            RANDOM: self.get_extra_state().tolist()
        }

    def load_full_optimizer_state_dict(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take this rank's part of what `full_optimizer_state_dict` gave, on this grid or another. Collective."""
        with together(self.grid.comm, "loading the optimizer's state"):
            optimizer_state.load(optimizer, state, self._owners(), self.grid.axes)
            if RANDOM in state:
                self.set_extra_state(torch.tensor(state[RANDOM]))

    def clip_grad_value_(self, clip_value: float) -> None:
        """`torch.nn.utils.clip_grad_value_`: every element of every gradient into [-clip_value, clip_value]."""
        nn.utils.clip_grad_value_(self.parameters(), clip_value)

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
        """`torch.nn.utils.clip_grad_norm_` over the whole model; returns the norm before. Collective.

        torch's own function, given `parallel.parameters()`, would see this rank's parts only, and clip by their norm.
        """
        gradients = [
            (gradient, self._homes[item])
            for item in self._homes
            if (gradient := self._tensors[item.name].grad) is not None
        ]
        total = grad_norm.global_norm(self.grid, gradients, float(norm_type))
        if error_if_nonfinite and not torch.isfinite(torch.tensor(total)):
            raise RuntimeError(f"the norm of order {norm_type} of all gradients is {total}, so they cannot be clipped")
        grad_norm.scale(self.parameters(), total, float(max_norm))
        return torch.tensor(total, dtype=gradients[0][0].dtype.to_real() if gradients else torch.float32)

    def rebalance(
        self, axis: str, cuts: Sequence[float] | None, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Cut `axis` at other fractions, moving what is sharded, optimizer state too. Collective, between steps."""
        names = [one.name for one in self.grid.axes]
        move(self.grid, names.index(axis), cuts, self._movable(), optimizer, self.filled)
        self._sums.rebuild()

    def free(self) -> None:
        """Give back what the gradient sums hold. The grid is the program's."""
        self._sums.free()

    def __repr__(self) -> str:
        here = sum(one.numel() for one in self.parameters())
        whole = sum(torch.Size(item.shape).numel() for item in self._homes if item.kind in ("parameter", "frozen"))
        grid = f"grid {str(self.grid.shape)!r}, rank {self.grid.rank}"
        return f"Parallel({self.description.name!r}, {grid}, {here} of {whole} parameters)"

    def _owners(self) -> dict[Tensor, tuple[Described, Layouts]]:
        return {self._tensors[item.name]: (item, layouts) for item, layouts in self._homes.items()}

    def _movable(self) -> list[tuple[Described, Layouts, Tensor]]:
        return [(item, layouts, self._tensors[item.name]) for item, layouts in self._homes.items()]

    def _checked(
        self, args: Sequence[object], kwargs: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]] | None
    ) -> tuple[dict[str, Tensor], ProgramMismatch | None]:
        """The inputs as tensors of these shapes, of any shape without; the ranks have yet to agree on the outcome."""
        described = self.description.inputs
        try:
            given = inputs.bind(described, args, kwargs)
            wanted = shapes or {name: tuple(getattr(value, "shape", ())) for name, value in given.items()}
            free = self._free if shapes else ()
            return inputs.check(described, given, wanted, self._dtype, free, same=not self.description.fixed), None
        except ProgramMismatch as refused:
            return {}, refused

    def _rows(self, given: Mapping[str, Tensor]) -> int:
        """The rows of the whole batch in these whole inputs."""
        found = [given[name].shape[0] for name in self._free] if given else []
        return next((rows for rows in found if rows != self.description.rows), self.description.rows)

    def _whole_rows(self, given: Mapping[str, Tensor]) -> int:
        """The rows of the whole batch, of which every rank has its part in these inputs. Collective."""
        if not self._free:
            return self.description.rows
        name = self._free[0]
        pairs = zip(self.grid.axes, self._inputs[name], strict=True)
        counts = all((isinstance(one, Shard) and one.dim == 0) or axis.index == 0 for axis, one in pairs)
        total = torch.tensor([given[name].shape[0] if counts and given and given[name].dim() else 0])
        self.grid.comm.all_reduce(total)
        return int(total)

    def add(self, program: Program, description: Description, constants: Source) -> None:
        """Take batches of the sizes of this program as well, which is of the same model over the same parameters. Collective.

        Raises ProgramMismatch where it is not, and CheckpointError for its constants.
        """
        with together(self.grid.comm, f"setting up the program for {description.rows} rows"):
            found, own = batch_forms.beside(self._forms[0], batch_forms.form(program, description))
            made = sources.load(batch_forms.renamed(found, constants), own, self.grid.axes, self._dtype)
        for name, tensor in made.items():
            register(self, name, tensor, "constant")
        self._homes |= own
        self._tensors |= made
        self._forms.append(found)
        self._refresh()

    @property
    def filled(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """The factors of which every rank must hold a row, see `autopar.runtime.parameters.minimum_rows`."""
        return tuple(dict.fromkeys(one for form in self._forms for one in form.description.filled))

    def _form(self, rows: int, given: Mapping[str, Tensor] | None) -> Form:
        """The program for a batch of so many rows; `given` are whole inputs. Collective.

        Raises, alike on every rank, ProgramMismatch where none was compiled for them, and ConfigError where so few
        leave a rank without one that needs one.
        """
        fitting = (one for one in self._forms if one.fits(rows, given or {}))
        having = self._free if given is None else tuple(name for name in self._free if given[name].shape[0] == rows)
        form = next(fitting, None) or self._another_form(rows, having)
        batch_forms.check_filled(form, rows, self.grid.axes)
        return form

    def _another_form(self, rows: int, having: Sequence[str]) -> Form:
        """A program for so many rows in these inputs. Collective."""
        raise inputs.refused_rows([one.description for one in self._forms], rows)

    def _step(self, form: Form, parts: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
        program, known = self.program if form is self._forms[0] else form.program, form.description
        self._call.training = self.training
        self._steps += self.training
        with drawing(self.seed, self._steps, self.training) as draws:
            returned = program.forward(self._namespaces[known.rows], *(parts[name] for name in program.inputs))
        self.drawn = tuple(draws.made)
        if not program.outputs:
            return self._sums.attach(returned)
        loss, *others = returned
        described = {item.name: item for item in known.outputs}
        found = {}
        for (name, layouts), part in zip(form.outputs.items(), others, strict=True):
            item = described[name]
            grown = (n * self._call.batch // known.rows if i in item.rows else n for i, n in enumerate(item.shape))
            found[name] = (part.detach(), cuts(tuple(grown), layouts, self.grid.axes))
        return Outputs(self.description.loss, self._sums.attach(loss), found)

    def _refresh(self) -> None:
        """Look tensors up again by name: `to` and the like replace buffers."""
        current = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        self._tensors = {name: current[name] for name in self._tensors}
        self._namespaces = {
            form.description.rows: Namespace({name: self._tensors[one] for name, one in form.names.items()}, self._call)
            for form in self._forms
        }

    def _apply(self, fn: Any, recurse: bool = True) -> Parallel:  # noqa: ANN401 (torch's own signature)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._refresh()
        self._sums.rebuild()
        return self
