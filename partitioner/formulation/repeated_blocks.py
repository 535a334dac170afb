"""Repeated blocks: stretches of the graph that are the same up to names, one behind the other.

The members of a list of modules (``h.0``, ``h.1``, ...) whose calls agree in operator, arguments, shapes, parameters and wiring
form a `Repeat`. They share one choice in the planner, and one function and a loop in the program. What a block reads from outside
is either the same for all blocks (an attention mask), or what the block before it made (the residual stream).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from autopar.ir.graph import Graph, Node, Ref


@dataclass(frozen=True, slots=True)
class Repeat:
    """`nodes[j]` are the calls of block j. `carried` pairs what a block reads with what the block before it made.

    entries   per external activation that a block reads: the value's name in block 0
    carried   entry index -> position of the value among a block's own values
    values    per block, its own values in order
    whole     whether the members are all that the list has
    """

    prefix: str
    members: tuple[str, ...]
    nodes: tuple[tuple[Node, ...], ...]
    values: tuple[tuple[str, ...], ...]
    entries: tuple[str, ...]
    carried: tuple[tuple[int, int], ...]
    whole: bool

    def outputs(self) -> tuple[int, ...]:
        """Positions of the values that a block hands on, in order of the entries that take them."""
        return tuple(dict.fromkeys(position for _, position in self.carried))

    def part(self, start: int, stop: int) -> Repeat:
        """The blocks from `start` up to `stop`: what the first of them is handed is what the block before it made."""
        if (start, stop) == (0, len(self.nodes)):
            return self
        carried = dict(self.carried) if start else {}
        entries = [self.values[start - 1][carried[i]] if i in carried else name for i, name in enumerate(self.entries)]
        blocks = slice(start, stop)
        nodes, values = self.nodes[blocks], self.values[blocks]
        return Repeat(self.prefix, self.members[blocks], nodes, values, tuple(entries), self.carried, False)


@dataclass(frozen=True, slots=True)
class _Run:
    prefix: str
    member: str
    nodes: tuple[Node, ...]
    signature: tuple[object, ...]
    values: tuple[str, ...]
    entries: tuple[str, ...]


_FOREIGN = "a parameter of another module"  # a block that reads one cannot be a function of its own parameters


def find(graph: Graph) -> tuple[Repeat, ...]:
    """All repeats of the graph, in order of execution."""
    runs = [_run(graph, key, tuple(nodes)) for key, nodes in itertools.groupby(graph.nodes, _member)]
    repeats = []
    for _, group in itertools.groupby(runs, lambda run: (run.prefix, run.signature)):
        for distinct in _distinct(group):
            repeat = _repeat(graph, distinct)
            if repeat is not None:
                repeats.append(repeat)
    return tuple(repeats)


def _distinct(runs: Iterable[_Run]) -> list[tuple[_Run, ...]]:
    """The runs in stretches that come to no member twice: a loop goes over a list's members once."""
    stretches: list[list[_Run]] = []
    for run in runs:
        if not stretches or run.member in {other.member for other in stretches[-1]}:
            stretches.append([])
        stretches[-1].append(run)
    return [tuple(stretch) for stretch in stretches]


def _member(node: Node) -> tuple[str, str]:
    """The outermost numbered module a call stands in, as (path of the list, number); empty where there is none."""
    parts = node.module.split(".")
    for i, part in enumerate(parts[1:], start=1):
        if part.isdigit():
            return ".".join(parts[:i]), part
    return "", ""


def _run(graph: Graph, key: tuple[str, str], nodes: tuple[Node, ...]) -> _Run:
    prefix, member = key
    path = f"{prefix}.{member}"
    parameters = {item.value: item.name for item in graph.parameters}
    updated = {value: name for name, value in graph.updates}
    own: dict[str, int] = {}
    entries: dict[str, int] = {}

    def token(name: str) -> object:
        if name in own:
            return own[name]
        if name in parameters:
            inside = parameters[name].startswith(path + ".")
            return parameters[name].removeprefix(path) if inside else _FOREIGN
        value = graph.values[name]
        return ("entry", entries.setdefault(name, len(entries)), value.shape, value.dtype, value.differentiable)

    def masked(argument: object) -> object:
        if isinstance(argument, Ref):
            return token(argument.name)
        return tuple(map(masked, argument)) if isinstance(argument, tuple) else (type(argument).__name__, argument)

    rows: list[object] = []
    for node in nodes:
        reads = (masked(node.args), masked(tuple(value for _, value in node.kwargs)))
        results = []
        for name in node.outputs:
            if name:
                own[name] = len(own)
                value = graph.values[name]
                results.append((value.shape, value.dtype, updated.get(name, "").removeprefix(path)))
        keys = tuple(key for key, _ in node.kwargs)
        rows.append((node.target, reads, keys, tuple(results), node.module.removeprefix(path)))
    return _Run(prefix, member, nodes, tuple(rows), tuple(own), tuple(entries))


def _repeat(graph: Graph, runs: tuple[_Run, ...]) -> Repeat | None:
    if len(runs) < 2 or not runs[0].prefix or _contains(runs[0].signature, _FOREIGN) or not _own(graph, runs[0]):
        return None
    carried = []
    for entry in range(len(runs[0].entries)):
        names = [run.entries[entry] for run in runs]
        if len(set(names)) == 1:
            continue
        positions = {run.values.index(name) if name in run.values else -1 for run, name in zip(runs, names[1:])}  # noqa: B905
        if len(positions) != 1 or -1 in positions:
            return None
        carried.append((entry, positions.pop()))
    if not carried or not _hands_on_only(graph, runs, {position for _, position in carried}):
        return None
    return Repeat(
        runs[0].prefix,
        tuple(run.member for run in runs),
        tuple(run.nodes for run in runs),
        tuple(run.values for run in runs),
        runs[0].entries,
        tuple(carried),
        {run.member for run in runs} == _list_members(graph, runs[0].prefix),
    )


def _own(graph: Graph, run: _Run) -> bool:
    """Whether the block has parameters: one without is no entry of the program's namespace."""
    return any(item.name.startswith(f"{run.prefix}.{run.member}.") for item in graph.parameters)


def _list_members(graph: Graph, prefix: str) -> set[str]:
    """The numbers under which the list has parameters or calls."""
    paths = [item.name for item in graph.parameters] + [node.module for node in graph.nodes]
    inside = [path.removeprefix(prefix + ".") for path in paths if path.startswith(prefix + ".")]
    return {path.split(".")[0] for path in inside}


def _contains(token: object, text: str) -> bool:
    return any(_contains(part, text) for part in token) if isinstance(token, tuple) else token == text


def _hands_on_only(graph: Graph, runs: tuple[_Run, ...], outputs: set[int]) -> bool:
    """Whether nothing but the carried values leaves a block, and those only for the next block (or, of the last, anyone)."""
    reader_of, leaving = graph.consumers(), set(graph.returned)
    for i, run in enumerate(runs):
        following = runs[i + 1].nodes if i + 1 < len(runs) else ()
        inside = {node.name for node in run.nodes}
        allowed = inside | {node.name for node in following}
        for position, name in enumerate(run.values):
            readers = {node.name for node in reader_of[name]}
            if name in leaving and (following or position not in outputs):
                return False
            if not readers <= inside and position not in outputs:
                return False
            if following and not readers <= allowed:
                return False
    return True


def representatives(repeats: Iterable[Repeat]) -> dict[str, str]:
    """The variables of calls and fan-outs of later blocks, by that of the first block which stands for each.

    Parameters are tied through the calls that read them. The values that the last block hands on keep their own choice: somebody
    else reads them.
    """
    tied: dict[str, str] = {}
    for repeat in repeats:
        last = len(repeat.nodes) - 1
        outputs = set(repeat.outputs())
        for j in range(1, len(repeat.nodes)):
            for node, first in zip(repeat.nodes[j], repeat.nodes[0], strict=True):
                tied["node:" + node.name] = "node:" + first.name
            for position, (name, first_name) in enumerate(zip(repeat.values[j], repeat.values[0], strict=True)):
                if j < last or position not in outputs:
                    tied["fan_out:" + name] = "fan_out:" + first_name
    return tied
