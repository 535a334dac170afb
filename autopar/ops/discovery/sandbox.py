"""Running something in a child process: an operator that is given operands it never met may crash or never end.

The child is a fork, so that it knows the operators that this process has registered. It computes in one thread, says
nothing, touches neither MPI nor a device, and ends without cleaning up. Its answer comes back as JSON through a pipe.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable

import torch


def in_child(function: Callable[[], bytes], seconds: float) -> bytes | None:
    """What the function returns, run in a child; None where the child crashed or took longer.

    Where there is no fork, it runs in this process.
    """
    if not hasattr(os, "fork"):
        return function()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forks beside threads: the child takes none of their locks
        child = os.fork()
    if child == 0:
        _answer(function, writer)
    os.close(writer)
    try:
        return _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        _end(child)


def _answer(function: Callable[[], bytes], writer: int) -> None:
    """The whole life of the child."""
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.stdout = sys.stderr = open(quiet, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        faulthandler.disable()
        gc.freeze()  # a look for garbage would touch, and so copy, all that the parent holds
        torch.set_num_threads(1)
        answer = function()
        while answer:
            answer = answer[os.write(writer, answer) :]
        os._exit(0)
    finally:
        os._exit(1)  # an exception of any kind must not come back to life in the parent's stack


def _read(reader: int, until: float) -> bytes | None:
    """All that comes through the pipe until the other end closes it."""
    data = bytearray()
    while (left := until - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            return None
        piece = os.read(reader, 1 << 16)
        if not piece:
            return bytes(data) or None
        data += piece
    return None


def _end(child: int) -> None:
    """Take the child away, whether it has ended or not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
