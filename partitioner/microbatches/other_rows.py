"""The graph of a model with yet another number of rows, from two that differ in the rows alone.

8 rows: view(x, (16, 3))      11 rows: view(x, (22, 3))      4 rows: view(x, (8, 3))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from autopar.ir.graph import Argument, Graph, Node


class NotProportional(Exception):
    """A number follows the rows in a way of its own."""


@dataclass(frozen=True, slots=True)
class _RowNumbers:
    here: int
    there: int
    wanted: int

    def number(self, one: float, two: float) -> float:
        """The number for the wanted rows. Raises NotProportional."""
        if one == two:
            return one
        for power in (1, 2):
            whole = one * self.wanted**power
            if two * self.here**power == one * self.there**power and whole % self.here**power == 0:
                return type(one)(whole // self.here**power)
        raise NotProportional(f"{one} with {self.here} rows and {two} with {self.there}")

    def argument(self, one: Argument, two: Argument) -> Argument:
        """The same of any argument."""
        if isinstance(one, tuple) and isinstance(two, tuple):
            return tuple(self.argument(a, b) for a, b in zip(one, two, strict=True))
        if isinstance(one, int | float) and isinstance(two, int | float) and not isinstance(one, bool):
            return self.number(one, two)
        if one != two:
            raise NotProportional(f"{one} with {self.here} rows and {two} with {self.there}")
        return one


def with_rows(graph: Graph, other: Graph, here: int, there: int, wanted: int) -> Graph:
    """The graph with the wanted rows. Raises NotProportional, also where the two graphs make other calls."""
    if wanted == here:
        return graph
    rows = _RowNumbers(here, there, wanted)
    if [(one.name, one.target, one.outputs) for one in graph.nodes] != [
        (one.name, one.target, one.outputs) for one in other.nodes
    ]:
        raise NotProportional("with another number of rows, forward makes other calls")
    nodes = tuple(_node(one, two, rows.argument) for one, two in zip(graph.nodes, other.nodes, strict=True))
    shapes = {name: rows.argument(value.shape, other.values[name].shape) for name, value in graph.values.items()}
    values = {name: replace(value, shape=shapes[name]) for name, value in graph.values.items()}  # type: ignore[arg-type]
    return replace(graph, nodes=nodes, values=values)


def _node(one: Node, two: Node, argument: Callable[[Argument, Argument], Argument]) -> Node:
    kwargs = tuple((name, argument(a, b)) for (name, a), (_, b) in zip(one.kwargs, two.kwargs, strict=True))
    args = argument(one.args, two.args)
    assert isinstance(args, tuple)
    return replace(one, args=args, kwargs=kwargs)
