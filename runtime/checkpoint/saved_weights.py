"""The model of a checkpoint as weights to begin with: each rank reads the slices of its own parts, as of any other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autopar.ir.layout import Layouts
from autopar.runtime.checkpoint import folders, load
from autopar.runtime.checkpoint.index import INDEX as MARK
from autopar.runtime.checkpoint.index import MODEL, SavedTensor, read_index
from autopar.runtime.grid.grid import Axis
from autopar.runtime.parameters import weight_files
from autopar.runtime.program.plan_reader import dtype_of


@dataclass(frozen=True, slots=True)
class SavedWeight:
    """A tensor of a checkpoint, unread."""

    saved: SavedTensor
    key: str
    files: load.Files

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return self.saved.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the checkpoint."""
        return dtype_of(self.saved.dtype)

    def reaching(self, place: Axis, axes: Sequence[Axis], positions: Sequence[int]) -> SavedWeight:
        """Itself: every rank reads for itself."""
        del place, axes, positions
        return self

    def part(self, layouts: Layouts, axes: Sequence[Axis]) -> Tensor:
        """This rank's part."""
        return load.part(self.saved, self.key, layouts, axes, self.files)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint or a folder of them, and not weights as others store them."""
    if not path.is_dir() or any((path / name).exists() for name in (weight_files.ONE, weight_files.INDEX)):
        return False
    return (path / MARK).exists() or bool(folders.candidates(path))


def opened(checkpoint: Path) -> dict[str, SavedWeight]:
    """Every tensor of a checkpoint's model by its name, unread. Raises CheckpointError."""
    files, beginning = load.Files(checkpoint), f"{MODEL}/"
    return {
        key.removeprefix(beginning): SavedWeight(saved, key, files)
        for key, saved in read_index(checkpoint).tensors.items()
        if key.startswith(beginning)
    }
