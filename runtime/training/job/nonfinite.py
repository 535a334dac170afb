"""A loss or a gradient that is no number: found before the optimizer makes its update, on all ranks or on none.

A rank sums each of its gradients, half-precision ones in float32: as infinities and NaNs stay in a sum, one that is finite
clears a gradient in one pass over its memory. Only where it is not, which large finite elements can do as well, are elements
looked at. The ranks then add up what they have found, with what else they decide together, in one sum of a few integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.diagnostics.collective_errors import alike, ranks_by
from autopar.runtime.transport.base import HALVES, Comm

STOP, SKIP, CONTINUE = CHOICES = ("stop", "skip", "continue")
"""What ``--on-nonfinite`` may say."""
_SHOWN = 8  # parameters that are named


def is_finite(tensor: Tensor) -> bool:
    """Whether all elements are numbers; complex, half-precision, sparse and empty tensors too.

    >>> is_finite(torch.tensor([3e38, 3e38])), is_finite(torch.tensor([0.0, float("nan")]))
    (True, False)
    """
    return bool(_sum(tensor).isfinite()) or bool(_elements(tensor).isfinite().all())


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """`is_finite` of many, which waits for a device once."""
    every = list(tensors)
    sums = [_sum(one).to(torch.float64) for one in every if one.numel()]
    return not sums or bool(torch.stack(sums).isfinite().all()) or all(map(is_finite, every))


def _sum(tensor: Tensor) -> Tensor:
    elements = _elements(tensor)
    return elements.sum(dtype=torch.float32) if elements.dtype in HALVES else elements.sum()


def _elements(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    values = values.coalesce().values() if values.is_sparse else values
    return torch.view_as_real(values) if values.is_complex() else values


def gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that parameters have."""
    return [one.grad for one in parameters if one.grad is not None]


def found(comm: Comm, loss: float, named: Mapping[str, Tensor]) -> list[str]:
    """What is not finite on any rank, a line each: the loss, and gradients by the names of their parameters. Collective."""
    mine = [] if is_finite(torch.tensor(loss)) else [f"the loss is {loss}"]
    mine += list(_lines(named))
    every = comm.gather_objects(mine)
    said = ranks_by((rank, line) for rank, lines in enumerate(every) for line in lines)  # type: ignore[attr-defined]
    lines = [
        line if len(ranks) == comm.size else f"{line}, on rank {', '.join(map(str, ranks))}"
        for line, ranks in said.items()
    ]
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"and {more} more"] if more > 0 else lines


def _lines(named: Mapping[str, Tensor]) -> Iterator[str]:
    for name, parameter in named.items():
        if parameter.grad is not None and not is_finite(parameter.grad):
            elements = _elements(parameter.grad)
            nans, infinities = int(elements.isnan().sum()), int(elements.isinf().sum())
            kinds = [f"{count} {kind}" for count, kind in ((nans, "NaN"), (infinities, "infinite")) if count]
            yield f"the gradient of {name} has {' and '.join(kinds)} of {elements.numel()} elements"


def refused(step: int, lines: list[str], newest: str) -> ConfigError:
    """The error, alike on all ranks, of a run that stops. `newest` says where its last checkpoint is, if it has one."""
    rule = "an optimizer learns from numbers: parameters that are none are lost for good"
    fix = "--on-nonfinite skip leaves such steps out; else a smaller learning rate, or gradients clipped"
    fix += f". {newest} is as it was: --resume goes on from there" if newest else ""
    return alike(ConfigError(refusal(f"step {step}", "its result is not finite", rule, lines, fix)))  # type: ignore[return-value]


def unsavable(comm: Comm, named: Iterable[tuple[str, Tensor]], buffers: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The parameters of any rank with elements that are not finite, and buffers with NaN (masks hold infinities). Collective."""
    mine = [name for name, one in named if not is_finite(one)]
    mine += [name for name, one in buffers if _floats(one) and bool(_elements(one).isnan().any())]
    count = torch.tensor([len(mine)], dtype=torch.int64)
    comm.all_reduce(count)
    if not int(count):
        return []
    every = comm.gather_objects(mine)
    return list(dict.fromkeys(name for names in every for name in names))  # type: ignore[attr-defined]


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
