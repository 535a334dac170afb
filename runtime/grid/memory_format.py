"""In which order of its dims a tensor lies in memory, and in which it is sent.

Ranks may differ in the order of memory: what is sent lies in the order of the dims. But images that lie channels last on all ranks
of an axis are sent so: to turn them to and fro takes longer than to send them. Whether they do is asked once per axis and a
conversion's shape (`Axis.agree`); a rank whose tensor lies otherwise afterwards turns it. What is made from images lies channels
last then. Other gathers and sums make what lies in the order of what they were given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autopar.runtime.grid.grid import Axis

TURNED = (0, 2, 3, 1)
"""The dims of an image in the order in which they lie where channels are last."""
_BACK = (0, 3, 1, 2)


def order(x: Tensor) -> torch.memory_format:
    """Channels last where `x` lies so, in one piece, and contiguous otherwise."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def in_memory(x: Tensor, form: torch.memory_format = torch.contiguous_format) -> Tensor:
    """`x` as its elements lie in memory one after another: no lazy conjugate, as gradients of complex numbers may be."""
    return x.resolve_conj().resolve_neg().contiguous(memory_format=form)


def are_images(x: Tensor, axis: Axis, what: str, whole: Sequence[int]) -> bool:
    """Whether the ranks send `x`, a part of a tensor of shape `whole`, channels last. Collective the first time."""
    if x.dim() != 4 or 0 in whole:
        return False
    lies_so = x.numel() == 0 or x.is_contiguous(memory_format=torch.channels_last)
    return axis.agree((what, *whole), lies_so)


def turn(x: Tensor) -> Tensor:
    """An image as a contiguous tensor whose last dim is the channels; a view where it lies so."""
    return in_memory(x.permute(TURNED))


def turn_back(x: Tensor) -> Tensor:
    """The image that `turn` has turned, channels last in memory.

    Without channels, on a rank that has none of them, its strides are those of a tensor that lies in order: torch takes no gradient
    of complex numbers as pairs with other ones, however few they are.
    """
    return x.reshape(x.shape[0], 0, *x.shape[1:3]) if x.shape[3] == 0 else x.permute(_BACK)
