"""Whether checkpoints can be written where they are to go, before anything is trained: the folder, a flush, and room."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from autopar.errors import CheckpointError, refusal
from autopar.ir.units import bytes_text
from autopar.runtime.checkpoint import contents
from autopar.runtime.checkpoint.contents import HeldState
from autopar.runtime.checkpoint.index import MODEL
from autopar.runtime.parameters.moving.contents import elementwise

_INDEX = 1 << 16  # bytes of an index and of headers, about


def written(folder: Path) -> None:
    """Make the folder, and write and flush a page in it, of which nothing stays. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as page:
        page.write(bytes(4096))
        page.flush()
        os.fsync(page.fileno())


def room(folder: Path, needed: int, there: int, keep: int) -> str | None:
    """What there is to tell of the room for checkpoints of so many bytes, of which `there` stand in the folder already.

    Raises CheckpointError where there is none for a first one and the next, or beside those that are there for one more.
    """
    free, least = shutil.disk_usage(folder).free, needed * (1 if there else 2)
    sizes = f"a checkpoint takes about {bytes_text(needed)}, and {bytes_text(free)} are free"
    if free < least:
        rule = "the next checkpoint is written while the one before is kept"
        raise CheckpointError(refusal(f"--checkpoint {folder}", sizes, rule, fix="make room, or name another folder"))
    if free < needed * (keep + 1 - min(there, keep)):
        return f"{sizes}: not enough for --keep {keep} and one that is written"
    return None


def expected_bytes(held: HeldState, optimizer: torch.optim.Optimizer | None) -> int:
    """About what a checkpoint takes, with the state that an optimizer will keep from its first step on. Collective."""
    trained = set() if optimizer is None else {one for group in optimizer.param_groups for one in group["params"]}
    size = _INDEX
    for part in contents.parts(held, optimizer):
        size += part.tensor.nbytes
        new = part.key.startswith(f"{MODEL}/") and part.tensor in trained and part.tensor.requires_grad
        if optimizer is not None and new and not optimizer.state.get(part.tensor):
            size += part.tensor.numel() * _state_bytes(optimizer, part.tensor)
    total = torch.tensor(size, dtype=torch.int64)
    held.grid.comm.all_reduce(total)
    return int(total)


def _state_bytes(optimizer: torch.optim.Optimizer, like: Tensor) -> int:
    """Bytes per element that an optimizer of this kind keeps: a step of another one is tried. As AdamW's where it cannot be."""
    one = nn.Parameter(torch.zeros(2, 2, dtype=like.dtype))
    one.grad = torch.zeros_like(one)
    try:
        other = type(optimizer).__new__(type(optimizer))
        groups = [{**optimizer.param_groups[0], "params": [one]}]
        other.__setstate__({"defaults": optimizer.defaults, "state": defaultdict(dict), "param_groups": groups})
        other.step()
    except Exception:  # whatever a user's optimizer does
        return 2 * like.element_size()
    return sum(value.element_size() for value in other.state[one].values() if elementwise(value, one))
