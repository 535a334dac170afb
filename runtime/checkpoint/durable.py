"""Every change of a disk that a checkpoint makes, in one place: on disk when it returns, or raised as the system says it."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from autopar.runtime.checkpoint.digest import FileDigest
from autopar.runtime.checkpoint.index import SavedFile

_AHEAD = 4
"""Pieces that may be hashed and not yet written: what is held for them is no more."""


def write_text(path: Path, text: str) -> None:
    """A text file, flushed."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_pieces(path: Path, pieces: Iterable[memoryview]) -> SavedFile:
    """A file of pieces, flushed, and what the index says of it. The disk takes one piece while the next ones are hashed."""
    digest, under_way = FileDigest(), deque[Future[None]]()
    with path.open("wb", buffering=0) as stream, ThreadPoolExecutor(1) as beside:
        for piece in pieces:
            under_way.append(beside.submit(write_piece, stream.fileno(), piece))
            digest.update(piece)
            if len(under_way) > _AHEAD:
                under_way.popleft().result()
        for one in under_way:
            one.result()
        os.fsync(stream.fileno())
    return digest.said()


def write_piece(handle: int, piece: memoryview) -> None:
    """The next bytes of an open file, on their way to the disk."""
    while piece:
        piece = piece[os.write(handle, piece) :]


def make_folder(path: Path) -> None:
    """A folder, with those above it."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _flush(one.parent)


def rename(old: Path, new: Path) -> None:
    """One name for another in one folder, at once or not at all, with what the folder holds flushed before and after."""
    _flush(old)
    old.rename(new)
    _flush(new.parent)


def remove(path: Path) -> None:
    """A folder with all that is in it."""
    shutil.rmtree(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
