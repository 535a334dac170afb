"""What was timed, on disk: one JSON file for a processor, a release of torch and a number of ranks that share the machine."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from pathlib import Path

import msgspec
import torch

from autopar.files import keep_file
from autopar.measure.timed_call import TimedCall
from autopar.ops.discovery import cache
from autopar.version import __version__

_VERSION = 2
Known = dict[str, tuple[float, float] | None]


def key(job: TimedCall) -> str:
    """A job's name in the file."""
    return hashlib.sha256(msgspec.json.encode(job)).hexdigest()[:24]


def read(workers: int) -> Known:
    """What is known for so many workers; nothing where the file cannot be read."""
    file = _file(workers)
    try:
        return {} if file is None else msgspec.json.decode(file.read_bytes(), type=Known)
    except (OSError, ValueError, msgspec.DecodeError):
        return {}


def write(workers: int, known: Known) -> None:
    """Keep what is known; a folder that cannot be written to keeps nothing."""
    file = _file(workers)
    if file is not None:
        keep_file(file, msgspec.json.encode(known))


def _file(workers: int) -> Path | None:
    place = cache.folder()
    if place is None:
        return None
    parts = (_VERSION, __version__, torch.__version__, _processor(), workers)
    return place.parent / "timings" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.json"


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor() or platform.machine()
