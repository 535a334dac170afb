"""The instance files of the ASPLOS/EuroSys 2025 contest on intra-operator parallelism, read into a `Problem`.

problem.nodes.intervals[i] = [start, stop], .costs[i][s], .usages[i][s]
problem.edges.nodes[e] = [a, b], .costs[e] row-major over the strategies of a, then b; about 1e18 means forbidden
problem.usage_limit
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import msgspec
import numpy as np

from autopar.errors import ConfigError, refusal
from autopar.partitioner.problem import Array, Choices, Edge, Problem

_FORBIDDEN = 1e17


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
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data = msgspec.json.decode(text, type=_File).problem
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
    except (OSError, EOFError, zlib.error, ValueError, IndexError, MemoryError, msgspec.MsgspecError) as error:
        rule = "an instance of the IOPDDL contest: nodes with intervals, costs, usages; edges with nodes, costs; usage_limit"
        raise ConfigError(refusal(str(path), f"{type(error).__name__}: {error}", rule)) from error


def _costs(numbers: list[float]) -> Array:
    costs = np.array(numbers, dtype=float)
    if costs.size and costs.max() >= _FORBIDDEN:
        costs[costs >= _FORBIDDEN] = np.inf
    return costs
