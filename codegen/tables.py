"""The two tables of a program: the layouts of its inputs and of its parameters, as short as they can be said.

A parameter is found by an exact name before a pattern, and by a pattern with fewer stars before one with more
(`autopar.runtime.program`). So the parameters that blocks have in common take one row, ``h.*.mlp.c_fc.weight``, and one that lies
otherwise than its siblings a row of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from autopar.graph import Graph
from autopar.layout import Layout, Layouts, Shard

_MOST_ROWS = 24  # a longer table is shortened further
_WIDEST = 100  # a short table up to here stands on one line
Rows = dict[str, Layouts]


def layout_tables(graph: Graph, homes: Mapping[str, Layouts], outputs: Mapping[str, Layouts] | None = None) -> str:
    """``INPUTS = ...``, ``PARAMETERS = ...``, and where there are outputs beside the loss ``OUTPUTS = ...``."""
    inputs = {item.name: homes[item.value] for item in graph.inputs}
    parameters = parameter_rows({item.name: homes[item.value] for item in graph.parameters})
    more = f"\nOUTPUTS = {_table(outputs)}" if outputs else ""
    return f"INPUTS = {_table(inputs)}\nPARAMETERS = {_table(parameters)}{more}"


def parameter_rows(layouts: Mapping[str, Layouts]) -> Rows:
    """Names or patterns, and their layouts: what `autopar.runtime.program.parameter_layouts` reads back as `layouts`."""
    rows = dict(layouts)
    for shorten in (_numbered, _of_modules, _of_depths):
        shorter = shorten(rows)
        if all(_read(shorter, name) == {one} for name, one in layouts.items()):
            rows = shorter
    return rows


def _read(rows: Rows, name: str) -> set[Layouts]:
    """The layouts that the strongest rows for a name give: those with the fewest stars."""
    parts = name.split(".")
    matching = [row for row in rows if len(row.split(".")) == len(parts) and _covers(row.split("."), parts)]
    fewest = min(row.count("*") for row in matching)
    return {rows[row] for row in matching if row.count("*") == fewest}


def _covers(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    return all(one in ("*", other) for one, other in zip(pattern, parts, strict=True))


def _numbered(layouts: Mapping[str, Layouts]) -> Rows:
    """One row for the parameters that differ in the numbers of their path only, and one for each that lies otherwise."""
    groups: dict[str, list[str]] = {}
    for name in layouts:
        groups.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    rows: Rows = {}
    for pattern, names in groups.items():
        usual, count = Counter(layouts[name] for name in names).most_common(1)[0]
        if count > 1:
            rows[pattern] = usual
        rows |= {name: layouts[name] for name in names if count == 1 or layouts[name] != usual}
    return rows


def _of_modules(rows: Rows) -> Rows:
    """One row for all parameters of a module that lie the same way: ``ln_1.*``."""
    groups: dict[str, list[str]] = {}
    for name in rows:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    found: Rows = {}
    for module, names in groups.items():
        if (
            not re.search(r"(^|\.)\d+(\.|$)", module)
            and module
            and len(names) > 1
            and len({rows[name] for name in names}) == 1
        ):
            found[f"{module}.*"] = rows[names[0]]
        else:
            found.update({name: rows[name] for name in names})
    return found


def _of_depths(rows: Rows) -> Rows:
    """In a long table: one row for names of the same length and last component, if they all lie the same way."""
    if len(rows) <= _MOST_ROWS:
        return rows
    groups: dict[tuple[int, str], list[str]] = {}
    for name in rows:
        groups.setdefault((name.count("."), name.rpartition(".")[2]), []).append(name)
    found: Rows = {}
    for (depth, last), names in groups.items():
        if len(names) > 1 and len({rows[name] for name in names}) == 1:
            found[".".join(["*"] * depth + [last])] = rows[names[0]]
        else:
            found.update({name: rows[name] for name in names})
    return found


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
