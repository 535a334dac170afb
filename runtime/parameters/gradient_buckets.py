"""Gradients of copied parameters, summed over their axes while backward still runs.

A parameter whose layout is Copied on an axis gets on every rank an addend of its gradient; the gradient is their
sum over the axis (the adjoint of a copy is a sum). The same holds of all parameters over the replicas of a queue, which compute
different micro-batches; a replica that has drawn none has zeros. Sums go in flat buckets, one kind of bucket per set of axes and
dtype:

    attach    puts an identity behind the loss, whose backward runs first and opens the round; of a loss that was taken before
              boundaries or segments moved it raises, since the gradients would be of parts that are no longer here
    hook      runs when a parameter's addend is there: copies it into its bucket, starts buckets that are full
    finish    runs when backward is done: starts what is left, waits, and makes the gradients views of the buckets

All ranks must enter the same sums in one order, whatever order their hooks run in: buckets are numbered in reverse
order of the parameters, and bucket k starts only after bucket k - 1. A parameter that a step does not use counts as
zeros; each bucket also sums one flag per parameter, so that a parameter that no rank has used keeps no gradient, as
in the sequential model. Gradients from earlier backward passes are put aside before and added after, so that they are
not summed twice.

A view in a bucket has the strides of its parameter, which lies in one piece: what autograd hands over is in that order, and
the optimizer reads both alike. The buckets lie where the transport sums without copies (`Comm.empty`). A sum moves only
when somebody asks, so every hook asks (`Work.test`). A gradient is a view of a bucket that the next backward pass
overwrites unless it is still the parameter's `grad` then: clone what is to be kept for longer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.bucketing import BUCKET_BYTES, buckets
from autopar.ir.layout import Copied, Layouts
from autopar.runtime.diagnostics import call_site
from autopar.runtime.grid.grid import Grid
from autopar.runtime.transport.base import Comm, Work

CALL_SITE = call_site.SUMS
_QUEUE = -1  # stands for the queue among the numbers of axes
_NAMED = 3  # moves, in an error
_engine: Any = torch.autograd.Variable._execution_engine


@dataclass(slots=True)
class _Bucket:
    """Parameters whose gradients are summed in one go; `flat` holds them one after another, then a flag for each."""

    comm: Comm
    members: list[nn.Parameter]
    flat: Tensor
    views: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    ready: set[nn.Parameter] = field(default_factory=set)

    def fill(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        self.views[parameter].copy_(parameter.grad)
        parameter.grad = self.views[parameter]
        self.ready.add(parameter)

    def start(self) -> Work:
        flags = self.flat[self.flat.numel() - len(self.members) :]
        for i, parameter in enumerate(self.members):
            if parameter not in self.ready and parameter.grad is not None:
                self.fill(parameter)  # of an earlier backward pass alone
            flags[i] = parameter in self.ready
            if parameter not in self.ready:
                self.views[parameter].zero_()
        return self.comm.start_all_reduce(self.flat)

    def used(self) -> list[nn.Parameter]:
        flags = self.flat[self.flat.numel() - len(self.members) :].tolist()
        return [parameter for parameter, flag in zip(self.members, flags, strict=True) if flag]


class GradientSums:
    """The sums of one model's gradients on a grid. Making it is collective: it makes communicators."""

    def __init__(
        self,
        grid: Grid,
        parameters: Mapping[str, nn.Parameter],
        layouts: Mapping[str, Layouts],
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._grid = grid
        self._layouts = layouts
        self._parameters: dict[str, nn.Parameter] = {}
        self._bucket_bytes = bucket_bytes
        self._comms: dict[tuple[int, ...], Comm] = {}
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._earlier: dict[nn.Parameter, Tensor] = {}
        self._works: deque[Work] = deque()
        self._started = 0
        self._open = False
        self._summing = True
        self._pending = False  # whether gradients are addends of an `accumulate` that are still to be summed
        self._hooks: list[Any] = []
        self._moves: list[str] = []  # every move so far, in words
        self.hold(parameters)

    def hold(self, parameters: Mapping[str, nn.Parameter], moved: str = "") -> None:
        """Sum the gradients of these from now on, of all others no more. Collective over the ranks of this position.

        `moved` says in words what has moved, if losses taken before have no backward any more.
        """
        self._remove_hooks()
        self._parameters = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        for axes in sorted({axes for name in self._parameters if (axes := self._axes(name))} - self._comms.keys()):
            self._comms[axes] = _over(self._grid, axes)
        self.rebuild(moved)
        self._hooks = [each.register_post_accumulate_grad_hook(self._hook) for each in self._parameters.values()]  # type: ignore[no-untyped-call]

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def seconds(self) -> float:
        """Wall seconds that this rank has spent in sums so far."""
        return sum(self.seconds_by_axes.values())

    @property
    def seconds_by_axes(self) -> dict[tuple[int, ...], float]:
        """The same by the numbers of the axes that are summed over."""
        return {axes: comm.seconds for axes, comm in self._comms.items()}

    @property
    def bytes(self) -> list[int]:
        """The size of each bucket, in the order in which they are summed."""
        return [bucket.flat.nbytes for bucket in self._buckets]

    def rebuild(self, moved: str = "") -> None:
        """Make the buckets anew, for local shapes that have changed. `moved` is as in `hold`."""
        self._moves += [moved] if moved else []
        names, parameters = list(self._parameters), list(self._parameters.values())
        axes = [self._axes(name) for name in names]
        kinds = [(over, parameter.dtype) if over else None for over, parameter in zip(axes, parameters, strict=True)]
        members = buckets(kinds, [parameter.nbytes for parameter in parameters], self._bucket_bytes)
        self._clear()
        self._buckets = [self._bucket([names[i] for i in bucket]) for bucket in members]
        self._bucket_of = {parameter: bucket for bucket in self._buckets for parameter in bucket.members}

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Leave the sums of backward passes in this context to the first one after it, which sums all of it at once.

        Until then, the gradients of copied parameters are this rank's addends.
        """
        before, self._summing = self._summing, False
        try:
            yield
        finally:
            self._summing = before

    @contextmanager
    def over(self, other: Callable[[Comm, int], Comm]) -> Iterator[None]:
        """Make the sums over `other(communicator, number of the bucket)` for now. Nothing is to be rebuilt meanwhile."""
        before = [bucket.comm for bucket in self._buckets]
        for i, bucket in enumerate(self._buckets):
            bucket.comm = other(bucket.comm, i)
        try:
            yield
        finally:
            for bucket, comm in zip(self._buckets, before, strict=True):
                bucket.comm = comm

    def attach(self, loss: Tensor) -> Tensor:
        """The loss, such that its backward pass sums the gradients, and raises ProgramMismatch if something has moved by then."""
        if not (torch.is_grad_enabled() and loss.requires_grad):
            return loss
        attached, moves = loss.view_as(loss), len(self._moves)
        attached.register_hook(lambda _: self._begin(moves))  # type: ignore[no-untyped-call]  # the first call of backward
        return attached

    def _begin(self, moves: int) -> None:
        """Begin the backward pass of a loss that was taken after so many moves."""
        since = self._moves[moves:]
        if since:
            lines = [f"move {number}: {what}" for number, what in enumerate(since, moves + 1)]
            rule = "gradients are of the parts that were here when the loss was computed: backward comes before a move"
            fix = "call loss.backward() before boundaries or segments move, which belongs between two steps"
            given = f"a loss that was taken before {len(since)} of {len(self._moves)} moves"
            raise ProgramMismatch(refusal("backward", given, rule, lines[-_NAMED:], fix))
        if self._buckets:
            self.open()

    def open(self) -> None:
        """Begin a round; called from within backward."""
        self._open = True
        self._started = 0
        self._works.clear()
        if not self._pending:
            self._put_aside()
        for bucket in self._buckets:
            bucket.ready.clear()
        _engine.queue_callback(self._finish)

    def _put_aside(self) -> None:
        """Keep gradients that are sums already from being summed again.

        Where this round leaves its sums to a later one, the first rank of each group keeps them as its addend: gradients
        that are cleared before that round are forgotten on all ranks, as they should be.
        """
        self._earlier = {}
        for parameter, bucket in self._bucket_of.items():
            if parameter.grad is None:
                continue
            if self._summing:
                self._earlier[parameter] = parameter.grad.clone()
            if self._summing or bucket.comm.rank:
                parameter.grad = None

    def free(self) -> None:
        """Remove the hooks and give the communicators back."""
        self._remove_hooks()
        self._clear()
        for comm in self._comms.values():
            comm.free()

    def _clear(self) -> None:
        """Give the buckets' memory back; gradients that lie there move to memory of their own."""
        for bucket in self._buckets:
            for parameter, view in bucket.views.items():
                if parameter.grad is not None and parameter.grad.data_ptr() == view.data_ptr():
                    parameter.grad = view.clone()
            bucket.comm.release(bucket.flat)
        self._buckets = []

    def _axes(self, name: str) -> tuple[int, ...]:
        axes = enumerate(zip(self._grid.axes, self._layouts[name], strict=True))
        copied = (i for i, (axis, layout) in axes if isinstance(layout, Copied) and axis.size > 1)
        queue = self._grid.queue
        return (*([_QUEUE] if queue is not None and queue.size > 1 else []), *copied)

    def _bucket(self, names: Sequence[str]) -> _Bucket:
        members = [self._parameters[name] for name in names]
        total = sum(parameter.numel() for parameter in members) + len(members)
        comm = self._comms[self._axes(names[0])]
        bucket = _Bucket(comm, members, comm.empty(total, members[0].dtype).zero_())
        start = bucket.flat.storage_offset()
        for parameter in members:
            bucket.views[parameter] = bucket.flat.as_strided(parameter.shape, parameter.stride(), start)
            start += parameter.numel()
        return bucket

    def _hook(self, parameter: nn.Parameter) -> None:
        if not (self._open and self._summing):
            return  # a backward pass that does not come from the loss
        if parameter in self._bucket_of and parameter.grad is not None:  # as where a replica has drawn no micro-batch
            self._bucket_of[parameter].fill(parameter)
        while self._started < len(self._buckets) and self._full(self._buckets[self._started]):
            self._start_next()
        if self._works and self._works[0].test():
            self._works.popleft()

    def _full(self, bucket: _Bucket) -> bool:
        return len(bucket.ready) == len(bucket.members)

    def _start_next(self) -> None:
        self._works.append(self._buckets[self._started].start())
        self._started += 1

    def _finish(self) -> None:
        self._open = False
        self._pending = not self._summing
        if self._pending:
            return
        while self._started < len(self._buckets):
            self._start_next()
        while self._works:
            self._works.popleft().wait()
        for bucket in self._buckets:
            for parameter in bucket.members:
                parameter.grad = None
            for parameter in bucket.used():
                parameter.grad = bucket.views[parameter]
        for parameter, earlier in self._earlier.items():
            parameter.grad = earlier if parameter.grad is None else parameter.grad.add_(earlier)
        self._earlier = {}


def _over(grid: Grid, axes: tuple[int, ...]) -> Comm:
    """The ranks that agree with this one on all other axes, as a communicator of its own for sums in the background."""
    others = [0 if i in axes else at for i, at in enumerate(grid.position)]
    color = sum(at * math.prod(grid.shape.sizes[i + 1 :]) for i, at in enumerate(others))
    return (grid.comm if _QUEUE in axes else grid.group).split(color, grid.rank)
