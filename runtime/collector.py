"""Python's collector of garbage, and what it need not look through."""

from __future__ import annotations

import gc
import sys

import torch


def load_optimizers() -> None:
    """Load what torch loads with the first optimizer, and never look for garbage among it, nor among what is there already.

    These are some 300 000 objects. To look through them takes half a second, which would be spent several times while they
    are loaded, now and then in a step, and at exit.
    """
    if "torch._dynamo" in sys.modules:
        return
    was = gc.isenabled()
    gc.disable()
    try:
        torch.optim.SGD([torch.zeros((), requires_grad=True)])
    finally:
        gc.freeze()
        if was:
            gc.enable()
