"""What `torch.autocast` asks of the distributed forms that torch does not know.

Inside an autocast region torch runs its own operators in the dtype of its lists: matrix products and convolutions in the
region's, losses in float32. A distributed form calls torch's operators on local parts and so follows the lists, where
it does not compute by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def in_float32(x: Tensor) -> Tensor:
    """`x` as autocast gives it to an operator of its float32 list; `x` itself outside of a region."""
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x
