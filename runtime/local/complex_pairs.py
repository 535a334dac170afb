"""Complex numbers as pairs of real ones."""

from __future__ import annotations

import torch
from torch import Tensor


def view_as_real(x: Tensor) -> Tensor:
    """`torch.view_as_real`: (..., 2). Of a rank's part without elements a new tensor: torch refuses the gradient of such a view
    where that lies otherwise, as an expanded one does.
    """
    return torch.view_as_real(x) if x.numel() else torch.stack((x.real, x.imag), -1)
