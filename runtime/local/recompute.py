"""Activation checkpointing: backward keeps what goes into a function, and computes the function again (arXiv 1604.06174).

The second forward is the first one over again, on every rank: it enters the same collectives in the same order, to the
last, and draws the same random numbers. Parameters are read, not passed, so their gradients and the hooks on them are
those of the one graph that the first forward made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint

from autopar.runtime.grid.counter_rng import current, replaying
from autopar.runtime.transport.world import simulated_world


def recompute(function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 (what the function takes and gives)
    """``function(*arguments)``, of which backward keeps the arguments alone and computes it again.

    Use it in a program in place of `torch.utils.checkpoint.checkpoint`, on every rank alike. A function that changes
    tensors in place (running statistics) would change them twice: it does not belong here.
    """
    draws = current()
    start, runs = draws.calls, 0

    def run(*inputs: Any) -> Any:  # noqa: ANN401
        nonlocal runs
        runs += 1
        if runs == 1:
            return function(*inputs)
        with replaying(draws, start):
            return function(*inputs)

    own = simulated_world() is None  # simulated ranks share torch's generator and leave it as it is
    return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=own, early_stop=False)
