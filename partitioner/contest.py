"""The instance files of the ASPLOS/EuroSys 2025 contest on intra-operator parallelism, read into a `Problem`.

problem.nodes.intervals[i] = [start, stop], .costs[i][s], .usages[i][s]
problem.edges.nodes[e] = [a, b], .costs[e] row-major over the strategies of a, then b; about 1e18 means forbidden
problem.usage_limit
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from autopar.errors import ConfigError, refusal
from autopar.partitioner.problem import Array, Choices, Edge, Problem

_FORBIDDEN = 1e17


def read_contest(path: Path) -> Problem:
    """The problem of an instance file, ``.json`` or ``.json.gz``. Raises ConfigError for anything else."""
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data = json.loads(text)["problem"]
        nodes, edges = data["nodes"], data["edges"]
        rows = zip(nodes["intervals"], nodes["costs"], nodes["usages"], strict=True)
        choices = tuple(
            Choices(f"node{i}", _costs(costs), np.array(held, dtype=float), int(start), int(stop))
            for i, ((start, stop), costs, held) in enumerate(rows)
        )
        pairs = zip(edges["nodes"], edges["costs"], strict=True)
        tables = tuple(Edge(a, b, _costs(costs).reshape(-1, choices[b].costs.size)) for (a, b), costs in pairs)
        return Problem(choices, tables, float(data["usage_limit"]))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, IndexError, TypeError) as error:
        rule = "an instance of the IOPDDL contest: nodes with intervals, costs, usages; edges with nodes, costs; usage_limit"
        raise ConfigError(refusal(str(path), f"{type(error).__name__}: {error}", rule)) from error


def _costs(numbers: list[float]) -> Array:
    costs = np.array(numbers, dtype=float)
    return np.where(costs >= _FORBIDDEN, np.inf, costs)
