"""Events in time as Chrome trace JSON, which Perfetto and chrome://tracing show.

One process of the trace per process (a rank, or "predicted"), one thread per lane; times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from autopar.costmodel.timeline import Event

LANES = ("compute", "communication")


def chrome(processes: Sequence[tuple[str, Sequence[Event]]]) -> dict[str, Any]:
    """The trace of these processes, each a name and its events."""
    return {"displayTimeUnit": "ms", "traceEvents": list(_records(processes))}


def _records(processes: Sequence[tuple[str, Sequence[Event]]]) -> Iterator[dict[str, Any]]:
    for pid, (name, events) in enumerate(processes):
        yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
        for tid, lane in enumerate(LANES):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}
        for one in events:
            times = {"ts": one.start * 1e6, "dur": (one.end - one.start) * 1e6}
            about = {"name": one.name, "cat": one.kind, "args": {"kind": one.kind, "detail": one.detail}}
            yield {"ph": "X", "pid": pid, "tid": LANES.index(one.lane), **times, **about}
