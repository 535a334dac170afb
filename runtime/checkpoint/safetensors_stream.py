"""A safetensors file written piece by piece: its header first, then the bytes of one tensor after another.

`safetensors.torch.save_file` wants all tensors of a file in memory; here none is whole unless its writer makes it so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""How the format calls dtypes; what is not here it does not have."""
DTYPES = {code: dtype for dtype, code in _CODES.items()}
_PIECE = 16 << 20  # bytes that go to the disk at a time


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor of a file to be: `pieces` makes its elements in row-major order, of any shape and of its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def bytes(self) -> int:
        """Of its elements."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def storable(dtype: torch.dtype) -> bool:
    """Whether the format has the dtype."""
    return dtype in _CODES


def content(tensors: Sequence[TensorToWrite], notes: Mapping[str, str]) -> Iterator[memoryview]:
    """The bytes of a file with tensors and notes, in their order; none but those of a piece are held for it."""
    header: dict[str, object] = {"__metadata__": dict(notes)} if notes else {}
    start, ordered = 0, sorted(tensors, key=lambda one: one.dtype.itemsize, reverse=True)  # so each is aligned
    for one in ordered:
        header[one.name] = {
            "dtype": _CODES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [start, start + one.bytes],
        }
        start += one.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for one in ordered:
        written = 0
        for piece in one.pieces():
            data = piece.contiguous().view(-1).view(torch.uint8).numpy().data
            yield from (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
            written += len(data)
        assert written == one.bytes, f"{written} of {one.bytes} bytes of {one.name}"


def write(path: Path, tensors: Sequence[TensorToWrite], notes: Mapping[str, str]) -> None:
    """Write the tensors with notes, and flush. Raises OSError as the system says it."""
    with path.open("wb") as stream:
        for piece in content(tensors, notes):
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
