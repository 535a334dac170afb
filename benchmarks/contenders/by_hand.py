"""The plan that autopar should pick, written by hand on the runtime's communication, without its session.

What autopar's generated program and session cost beyond this is their overhead. One file per model in ``handwritten/``
has the forward pass, and says which parameters are split.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.runtime import Axis, Grid
from autopar.runtime.process import set_allocator
from autopar.runtime.program.namespace import Namespace
from benchmarks.contenders.gradient_sums import sum_gradients
from benchmarks.models import Model, batch, seeded

Forward = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class HandwrittenPlan:
    """A hand-written program over one axis.

    `shard` cuts a named parameter, `part` an input; with `summed`, gradients are addends and have to be summed.
    """

    forward: Forward
    shard: Callable[[str, Tensor, Axis], Tensor]
    part: Callable[[str, Tensor, Axis], Tensor]
    summed: bool


class ByHand:
    """This rank's part of the model."""

    def __init__(self, model: Model) -> None:
        plan: HandwrittenPlan = importlib.import_module(f"benchmarks.handwritten.{model.name}").PLAN
        set_allocator(gives_back=False)  # as autopar's session does
        self.grid = Grid("2")
        (self.axis,) = self.grid.axes
        self.rank = self.grid.rank
        module = seeded(model)
        trained = {name: plan.shard(name, p.detach(), self.axis) for name, p in module.named_parameters()}
        self.parameters = [tensor.clone().requires_grad_() for tensor in trained.values()]
        names = dict(zip(trained, self.parameters, strict=True))
        self.namespace = Namespace(names | dict(module.named_buffers()))
        self.inputs = {name: plan.part(name, tensor, self.axis) for name, tensor in batch(model).items()}
        self.plan = plan
        self.optimizer = torch.optim.SGD(self.parameters, lr=model.rate)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.plan.forward(self.namespace, self.axis, **self.inputs)
        loss.backward()
        if self.plan.summed:
            sum_gradients(self.parameters, self.axis.comm.all_reduce)
        self.optimizer.step()
        return loss.item()

    def close(self) -> None:
        self.grid.free()


def start(model: Model, folder: str) -> ByHand:
    return ByHand(model)


def whole(name: str, tensor: Tensor, axis: Axis) -> Tensor:
    return tensor


def rows(dim: int) -> Callable[[str, Tensor, Axis], Tensor]:
    """Cut every tensor at the axis's bounds of this dim."""

    def cut(name: str, tensor: Tensor, axis: Axis) -> Tensor:
        bounds = axis.bounds(tensor.shape[dim])
        return tensor.narrow(dim, bounds[axis.index], axis.part(tensor.shape[dim])).contiguous()

    return cut
