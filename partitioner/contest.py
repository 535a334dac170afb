"""The instance files of the ASPLOS/EuroSys 2025 contest on intra-operator parallelism, read into a `Problem`.

problem.nodes.intervals[i] = [start, stop], .costs[i][s], .usages[i][s]
problem.edges.nodes[e] = [a, b], .costs[e] row-major over the strategies of a, then b; about 1e18 means forbidden
problem.usage_limit

A file is JSON, or JSON that was gzipped, whatever it is called. Everything that is wrong with it is refused in one message.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from autopar.errors import ConfigError, refusal
from autopar.partitioner.problem import Array, Choices, Edge, Problem

_FORBIDDEN = 1e17
_LATEST = 2**53
"""Times beyond are not told apart."""
_GZIP = b"\x1f\x8b"
_RULE = "an instance of the IOPDDL contest: nodes with intervals, costs, usages; edges with nodes, costs; usage_limit"
_FIX = "compare with an instance of github.com/google/iopddl"
_SHOWN = 10


class _Nodes(msgspec.Struct, frozen=True):
    intervals: list[tuple[int, int]]
    costs: list[list[float]]
    usages: list[list[float]]


class _Edges(msgspec.Struct, frozen=True):
    nodes: list[tuple[int, int]]
    costs: list[list[float]]


class _Instance(msgspec.Struct, frozen=True):
    nodes: _Nodes
    edges: _Edges
    usage_limit: float


class _File(msgspec.Struct, frozen=True):
    problem: _Instance


def read_contest(path: Path) -> Problem:
    """The problem of an instance file, ``.json`` or ``.json.gz``. Raises ConfigError for anything else."""
    text = b""
    try:
        text = path.read_bytes()
        text = gzip.decompress(text) if text.startswith(_GZIP) else text
        data = msgspec.json.decode(text, type=_File).problem
    except (OSError, EOFError, zlib.error, ValueError, MemoryError, RecursionError, msgspec.MsgspecError) as error:
        raise ConfigError(refusal(str(path), _reason(text, error), _RULE, fix=_FIX)) from error
    offenders = list(_offenders(data))
    if offenders:
        more = [f"and {len(offenders) - _SHOWN} more"] if len(offenders) > _SHOWN else []
        lines = offenders[:_SHOWN] + more
        raise ConfigError(refusal(str(path), "malformed: it contradicts itself", _RULE, lines, _FIX))
    return _problem(data)


def _reason(text: bytes, error: Exception) -> str:
    """What is wrong with a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return f"gzipped, and damaged: {error}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "too large for this machine's memory"
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return f"not UTF-8: byte {wrong.start} is {text[wrong.start]:#04x}"
    return f"not such a file: {error}"


def _offenders(data: _Instance) -> Iterator[str]:
    """What contradicts what, before anything is made of it."""
    nodes, edges = data.nodes, data.edges
    counts = {"intervals": len(nodes.intervals), "costs": len(nodes.costs), "usages": len(nodes.usages)}
    if len(set(counts.values())) > 1:
        yield "nodes: " + ", ".join(f"{count} {name}" for name, count in counts.items())
        return
    for i, (interval, costs, usages) in enumerate(zip(nodes.intervals, nodes.costs, nodes.usages, strict=True)):
        if not costs:
            yield f"node {i}: no strategies"
        if len(costs) != len(usages):
            yield f"node {i}: {len(costs)} costs and {len(usages)} usages"
        if max(map(abs, interval)) > _LATEST:
            yield f"node {i}: the interval {list(interval)} is out of range"
        elif interval[0] < 0 or interval[1] < interval[0]:
            yield f"node {i}: the interval {list(interval)} is negative, or runs backwards"
    if len(edges.nodes) != len(edges.costs):
        yield f"edges: {len(edges.nodes)} nodes, {len(edges.costs)} costs"
        return
    for e, ((a, b), costs) in enumerate(zip(edges.nodes, edges.costs, strict=True)):
        unknown = [node for node in (a, b) if not 0 <= node < len(nodes.costs)]
        if unknown:
            yield f"edge {e}: node {unknown[0]} is none of the {len(nodes.costs)}"
        elif len(costs) != len(nodes.costs[a]) * len(nodes.costs[b]):
            yield f"edge {e}: {len(costs)} costs for {len(nodes.costs[a])} x {len(nodes.costs[b])} strategies"


def _problem(data: _Instance) -> Problem:
    nodes, edges = data.nodes, data.edges
    rows = zip(nodes.intervals, nodes.costs, nodes.usages, strict=True)
    choices = tuple(
        Choices(f"node{i}", _costs(costs), np.array(held, dtype=float), start, stop)
        for i, ((start, stop), costs, held) in enumerate(rows)
    )
    pairs = zip(edges.nodes, edges.costs, strict=True)
    tables = tuple(
        Edge(a, b, _costs(costs).reshape(choices[a].costs.size, choices[b].costs.size)) for (a, b), costs in pairs
    )
    return Problem(choices, tables, data.usage_limit)


def _costs(numbers: list[float]) -> Array:
    costs = np.array(numbers, dtype=float)
    if costs.size and costs.max() >= _FORBIDDEN:
        costs[costs >= _FORBIDDEN] = np.inf
    return costs
