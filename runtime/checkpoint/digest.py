"""What tells whether a file is as it was written: its sha256, and a checksum that is found as fast as memory is read.

The checksum is of 64-bit words w in pages p of 4096 bytes, the last one filled up with zeros, modulo 2^64:

    S(p) = sum of w in p        checksum = sum of S(p), and sum of (p + 1) S(p)

A flipped bit changes the first of its numbers whatever else stands there, pages that have changed places the second. It finds what
fails by accident, and so a job compares it before it goes on; `autopar checkpoint verify` compares sha256 too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy

from autopar.runtime.checkpoint.index import SavedFile

_PAGE = 4096
_READ = 1 << 18  # bytes at a time, which the nearest caches hold
_WORDS = (1 << 64) - 1


class FileDigest:
    """Takes the bytes of a file in their order, in pieces of any size. Without `thorough` there is no sha256."""

    def __init__(self, *, thorough: bool = True) -> None:
        self._sha256 = hashlib.sha256() if thorough else None
        self._bytes = self._pages = self._sum = self._placed = 0
        self._rest = b""  # of a page that is not full

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        view = memoryview(data).cast("B")
        self._bytes += len(view)
        if self._sha256 is not None:
            self._sha256.update(view)
        if self._rest:
            taken = _PAGE - len(self._rest)
            self._rest += bytes(view[:taken])
            view = view[taken:]
            if len(self._rest) < _PAGE:
                return
            self._add(self._rest)
        whole = len(view) // _PAGE * _PAGE
        if whole:
            self._add(view[:whole])
        self._rest = bytes(view[whole:])

    def said(self) -> SavedFile:
        """What the index says of a file with these bytes; nothing may come after."""
        if self._rest:
            self._add(self._rest.ljust(_PAGE, b"\0"))
            self._rest = b""
        sha256 = "" if self._sha256 is None else self._sha256.hexdigest()
        return SavedFile(self._bytes, sha256, f"{self._sum:016x}{self._placed:016x}")

    def _add(self, pages: bytes | memoryview) -> None:
        sums = numpy.frombuffer(pages, "<u8").reshape(-1, _PAGE // 8).sum(axis=1, dtype=numpy.uint64)
        places = numpy.arange(self._pages + 1, self._pages + 1 + len(sums), dtype=numpy.uint64)
        self._sum = (self._sum + int(sums.sum(dtype=numpy.uint64))) & _WORDS
        self._placed = (self._placed + int((sums * places).sum(dtype=numpy.uint64))) & _WORDS
        self._pages += len(sums)


def file_digest(path: Path, *, thorough: bool = True) -> SavedFile:
    """Of a file as it is. Raises OSError."""
    digest, buffer = FileDigest(thorough=thorough), memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.said()


def differs(path: Path, said: SavedFile, *, thorough: bool) -> str | None:
    """What is different from what was written: by its sha256 if `thorough`, or where no checksum was noted. Raises OSError."""
    by_hash = thorough or not said.checksum
    found = file_digest(path, thorough=by_hash)
    if by_hash and found.sha256 != said.sha256:
        return "its sha256 is another"
    return "its checksum is another" if said.checksum and found.checksum != said.checksum else None
