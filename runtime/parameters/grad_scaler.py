"""Loss scaling for float16: torch's own scaler, with one verdict for all ranks.

A scaler skips a step, and lowers its scale, where a gradient overflowed. On a grid a gradient may overflow in one
rank's part only, and ranks that disagree would train different models: here any rank's overflow is every rank's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autopar.runtime.transport.base import Comm


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler` over the ranks of `comm`; `unscale_` and `step` are collective. Options are torch's."""

    def __init__(self, comm: Comm, device: str = "cpu", **options: Any) -> None:  # noqa: ANN401 (torch's options)
        super().__init__(device, **options)
        self._comm = comm

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        overflows = super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        total = torch.tensor([sum(float(flag) for flag in overflows.values())])
        self._comm.all_reduce(total)
        for flag in overflows.values():
            flag.fill_(float(total > 0))
        return overflows or {found_inf.device: (total > 0).float().reshape(())}  # a rank may have no gradient
