"""Events in time as Chrome trace JSON, which Perfetto and chrome://tracing show.

One process of the trace per process (a rank, or "predicted"), one thread per lane; times are microseconds, to the nanosecond,
so that events of a lane that touch do not overlap by rounding. Same events, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autopar.costmodel.timeline import Event
from autopar.files import write_file

RULE = "a trace is a file of its own"
LANES = (
    "compute",
    "communication",
)  # of every process, in this order; others follow in the order of their first events


def chrome(processes: Sequence[tuple[str, Sequence[Event]]]) -> dict[str, Any]:
    """The trace of these processes, each a name and its events; the pid is the place in the list."""
    records = [record for pid, (name, events) in enumerate(processes) for record in _records(pid, name, events)]
    return {"displayTimeUnit": "ms", "traceEvents": records}


def write(file: Path, processes: Sequence[tuple[str, Sequence[Event]]]) -> None:
    """Write the trace. Raises ConfigError where the file cannot be written."""
    write_file("--trace", file, json.dumps(chrome(processes), sort_keys=True) + "\n", RULE)


def _records(pid: int, name: str, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    lanes = list(dict.fromkeys((*LANES, *(event.lane for event in events))))
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
    for tid, lane in enumerate(lanes):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
    for event in sorted(events, key=lambda event: (lanes.index(event.lane), event.start, event.end)):
        start, end = round(event.start * 1e6, 3), round(event.end * 1e6, 3)
        about = {"name": event.name, "cat": event.kind, "args": {"kind": event.kind, "detail": event.detail}}
        tid = lanes.index(event.lane)
        yield {"ph": "X", "pid": pid, "tid": tid, "ts": start, "dur": round(end - start, 3), **about}
