"""The two tables of a program: the layouts of its inputs and of its parameters, as short as they can be said.

A parameter is found by an exact name before a pattern, and by a pattern with fewer stars before one with more; a star is one
component of a name (`autopar.runtime.program.program`). So the parameters that blocks have in common take one row,
``h.*.mlp.c_fc.weight``, one that lies otherwise than its siblings has a row of its own below it, and ``h.*.attn.*`` does not
reach ``h.0.attn.out.weight``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from autopar.ir.graph import Graph
from autopar.ir.layout import Layout, Layouts, Shard

_MOST_ROWS = 24  # a longer table is shortened further
_WIDEST = 100  # a short table up to here stands on one line
Rows = dict[str, Layouts]


def layout_tables(graph: Graph, storage: Mapping[str, Layouts], outputs: Mapping[str, Layouts] | None = None) -> str:
    """``INPUTS = ...``, ``PARAMETERS = ...``, and where there are outputs beside the loss ``OUTPUTS = ...``."""
    inputs = {item.name: storage[item.value] for item in graph.given}
    parameters = parameter_rows({item.name: storage[item.value] for item in graph.parameters})
    more = f"\nOUTPUTS = {_table(outputs)}" if outputs else ""
    return f"INPUTS = {_table(inputs)}\nPARAMETERS = {_table(parameters)}{more}"


def parameter_rows(layouts: Mapping[str, Layouts]) -> Rows:
    """Names or patterns, and their layouts: what `autopar.runtime.program.program.parameter_layouts` reads back as `layouts`.

    Without any one of the rows it would not. Rows of a module stand together, the rule before its exceptions.
    """
    rows = dict(layouts)
    for pattern_of in (_any_number, _any_of_module, _any_of_depth):
        if pattern_of is not _any_of_depth or len(rows) > _MOST_ROWS:
            rows = _needed(_shorter(rows, pattern_of, layouts), layouts)
    modules = {name: _module(_any_number(name)) for name in layouts}
    order = {module: place for place, module in enumerate(dict.fromkeys(modules.values()))}

    def place(row: str) -> tuple[int, int]:
        return min(order[modules[name]] for name in _covered(row, layouts)), -row.count("*")

    return {row: rows[row] for row in sorted(rows, key=place)}


def _any_number(name: str) -> str:
    """``h.*.fc.weight``: the same in every block."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _any_of_module(name: str) -> str:
    """``ln_1.*``: all parameters of a module."""
    return f"{_module(name)}.*" if _module(name) else name


def _any_of_depth(name: str) -> str:
    """``*.*.weight``: all names of the same length and last component."""
    return "*." * name.count(".") + name.rpartition(".")[2]


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _shorter(rows: Rows, pattern_of: Callable[[str], str], layouts: Mapping[str, Layouts]) -> Rows:
    """Rows of the same pattern become one row, which has their commonest layouts; those that lie otherwise stay.

    One that is in another's way now may not be when others have become shorter: again, as long as any has.
    """
    before = len(rows)
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(pattern_of(row), []).append(row)
    for pattern, members in groups.items():
        usual, count = Counter(rows[row] for row in members).most_common(1)[0]
        if count > 1:
            gone = {row for row in members if rows[row] == usual}
            shorter = {row: row_layouts for row, row_layouts in rows.items() if row not in gone} | {pattern: usual}
            if _right(shorter, layouts, _covered(pattern, layouts)):
                rows = shorter
    return _shorter(rows, pattern_of, layouts) if len(rows) < before else rows


def _needed(rows: Rows, layouts: Mapping[str, Layouts]) -> Rows:
    """Without the rows that others make needless, narrow ones first. One that is gone may make another needless."""
    before = None
    while rows != before:
        before = rows
        for row in sorted(rows, key=lambda row: row.count("*")):
            rest = {other: row_layouts for other, row_layouts in rows.items() if other != row}
            if _right(rest, layouts, _covered(row, layouts)):
                rows = rest
    return rows


def _right(rows: Rows, layouts: Mapping[str, Layouts], names: Sequence[str]) -> bool:
    """Whether the strongest rows for each of these names, those with the fewest stars, give what was decided for it."""
    matches: dict[str, tuple[int, set[Layouts]]] = {name: (0, {rows[name]}) for name in names if name in rows}
    for row in sorted((row for row in rows if "*" in row), key=lambda row: row.count("*")):
        for name in _covered(row, names):
            stars, read = matches.setdefault(name, (row.count("*"), set()))
            if row.count("*") == stars:
                read.add(rows[row])
    return all(name in matches and matches[name][1] == {layouts[name]} for name in names)


def _covered(row: str, names: Collection[str]) -> list[str]:
    """The names that a row speaks of."""
    if "*" not in row:
        return [row] if row in names else []
    reach = re.compile(r"\.".join("[^.]*" if part == "*" else re.escape(part) for part in row.split(".")))
    return [name for name in names if reach.fullmatch(name)]


def _table(rows: Mapping[str, Layouts]) -> str:
    texts = [f'"{name}": [{", ".join(map(layout_text, layouts))}]' for name, layouts in rows.items()]
    line = "{" + ", ".join(texts) + "}"
    if len(texts) <= 3 and len(line) <= _WIDEST:
        return line
    return "{\n" + "".join(f"    {text},\n" for text in texts) + "}"


def layout_text(layout: Layout) -> str:
    """A layout as the source that makes it."""
    if not isinstance(layout, Shard):
        return f"{type(layout).__name__}()"
    more = [f"{name}={n}" for name, n in (("blocks", layout.blocks), ("unit", layout.unit)) if n != 1]
    return f"Shard({', '.join([str(layout.dim), *more])})"
