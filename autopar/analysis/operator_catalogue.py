"""docs/operators.md, written from the records: what each operator is called, its letters, and what splitting them means.

    python -m autopar.analysis.operator_catalogue docs/operators.md

Every record is asked for the rule of each of its samples. A letter is listed as what it becomes there: a part of the
result, an addend of it, or whole; and with the messages that the call itself sends while it is split.
"""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autopar.ir.layout import Partial
from autopar.ops.record.op import Op, home_of
from autopar.ops.record.rule import Call, Rule, Window, split_choice
from autopar.ops.registry import registry

HEAD = """# Operators

<!-- Written by `make operators` from the records in autopar/ops/. -->

What autopar can split, and how. An operator is listed by its ATen name, without `aten.` in front and `.default` behind;
`autopar.x` is one that capture makes out of several. Operators with the same letters and costs share a line. Of any other
operator compile finds out by trying what can be split; [adding an operator](adding_an_operator.md) by hand is one record.

**Letters** say which dims belong together, operands before the arrow and results after it. `b*` stands for any number of dims,
`(h d)` for one dim that is a product, `[v]` for a dim that has to be whole, `h~` for one whose rows need their neighbours,
`k?` for an operand that may be missing.

**Split** are the letters that a grid axis may cut, in at least one of the forms in which the operator is called. An operand or
result with the letter is then held in parts; an operand without it is held whole, and its gradient is summed over the axis.
A letter marked **+** is one that the result lacks: each rank then has an addend of the result.

**Whole** are the letters that cannot be cut: all of them, or only in some calls (an index that may point anywhere, a size that
does not divide). An operator along a dim names all its dims alike; that dim is `of its own`.

**Inside** is what the call itself sends while a letter is split: `halo`, rows of the neighbours; `exchange`, rows to and from any
rank; `sum`, sums over the axis. Where nothing stands, ranks compute alone.

**Cost** is the class whose rate prices the call: `matmul`, `conv`, `attention`, `pointwise`, `reduce`, `memory`, or `view`,
which is free.
"""
_ITSELF = Window(1)  # a row that needs no other
_SENT = {"all_sum": "sum", "halo": "exchange"}
TITLES = ("operator", "letters", "split", "whole", "inside", "cost")


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """What a line says of a record beside its name, every cell as it is printed."""

    letters: str
    split: str
    whole: str
    inside: str
    cost: str


def catalogue() -> str:
    """The text of docs/operators.md."""
    families: dict[str, list[Op]] = defaultdict(list)
    for op in dict.fromkeys(registry().values()):
        families[home_of(op)].append(op)
    parts = [HEAD]
    for name in sorted(families):
        parts.append(f"## {title(name)}\n\n{introduction(name)}\n\n{table(families[name])}\n")
    return "\n".join(parts)


def title(module: str) -> str:
    """A family's heading: the name of its file."""
    return module.rpartition(".")[2].replace("_", " ").capitalize()


def introduction(module: str) -> str:
    """The first sentence of its file."""
    text = (importlib.import_module(module).__doc__ or "").split("\n\n")[0]
    return " ".join(text.split())


def table(ops: Iterable[Op]) -> str:
    """One line per different row, records with the same row together, in the order of their first names."""
    rows: dict[CatalogueRow, list[str]] = defaultdict(list)
    for op in ops:
        rows[row_of(op)] += op.targets
    lines = [TITLES, ("---",) * len(TITLES)]
    for row, targets in sorted(rows.items(), key=lambda item: min(item[1])):
        lines.append((named(targets), row.letters, row.split, row.whole, row.inside, row.cost))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def named(targets: Iterable[str]) -> str:
    """Operators, with the overloads where there are others than the default.

    >>> named(["aten.add.Tensor", "aten.add.Scalar", "aten.relu.default"])
    '`add` (Scalar, Tensor), `relu`'
    """
    overloads: dict[str, list[str]] = defaultdict(list)
    for target in sorted(targets):
        name, _, overload = target.removeprefix("aten.").partition(".")
        overloads["autopar." + overload if name == "autopar" else name].append(overload)
    plain = [name for name, known in overloads.items() if name.startswith("autopar.") or known == ["default"]]
    return ", ".join(
        f"`{name}`" + ("" if name in plain else f" ({', '.join(known)})") for name, known in sorted(overloads.items())
    )


@dataclass(frozen=True, slots=True)
class _Letter:
    """What one letter is in one call. `special`: "+" where a result is a sum, and what is sent inside."""

    name: str
    frozen: bool
    special: frozenset[str]

    @property
    def base(self) -> str:
        """As the notation writes it: ``b`` for b0 and b1."""
        return self.name.rstrip("0123456789_") or self.name


def row_of(op: Op) -> CatalogueRow:
    """The line of a record, read off the rules of its samples."""
    calls = list(_calls(op))
    by_base: dict[str, list[_Letter]] = defaultdict(list)
    places = {
        letter: i for i, letter in reversed(list(enumerate(op.note)))
    }  # letters as the notation has them, others last
    every = (letter for call in calls for letter in call)
    for letter in sorted(every, key=lambda letter: (places.get(letter.base, 99), letter.base)):
        by_base[letter.base].append(letter)
    split, whole, kinds = [], [], defaultdict(list)
    for base, letters in by_base.items():
        special = frozenset[str]().union(*(letter.special for letter in letters))
        both = any({letter.frozen for letter in call if letter.base == base} == {True, False} for call in calls)
        sometimes = len({letter.frozen for letter in letters}) == 2
        if not all(letter.frozen for letter in letters):
            split.append(base + "+" * ("+" in special) + (" of other dims" if both else ""))
        if any(letter.frozen for letter in letters):
            whole.append(base + (" of its own dim" if both else " in some calls" if sometimes else ""))
        for kind in sorted(special - {"+"}):
            kinds[kind].append(base)
    inside = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in sorted(kinds.items()))
    return CatalogueRow(f"`{op.note}`", ", ".join(split), ", ".join(whole), inside, op.work)


def _calls(op: Op) -> Iterator[tuple[_Letter, ...]]:
    """The letters of every sample that the record does not refuse, those of extent 1 left out."""
    from autopar.proof.reference import whole_of

    for sample in op.samples:
        call = whole_of(op, sample).call
        try:
            rule = op.rule(call)
        except ValueError:
            continue
        names = dict.fromkeys(letter for dims in (*rule.operands, *rule.results) for dim in dims for letter in dim)
        yield tuple(
            _Letter(name, name in rule.frozen, frozenset() if name in rule.frozen else _special(op, call, rule, name))
            for name in names
            if name in rule.frozen or rule.extents[name] > 1
        )


def _special(op: Op, call: Call, rule: Rule, letter: str) -> frozenset[str]:
    choice = split_choice(rule, call, letter)
    marks = {"+"} if choice is not None and any(isinstance(layout, Partial) for layout in choice.results) else set()
    if rule.windows.get(letter, _ITSELF) != _ITSELF:
        marks.add("halo")
    sent = [transfer.primitive for transfer in op.inner(call, rule, letter)] if op.inner else []
    return frozenset(marks | {_SENT.get(primitive, primitive) for primitive in sent})


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(catalogue(), encoding="utf-8")
