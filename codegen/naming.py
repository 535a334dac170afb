"""Names of variables: short, the user's where there is one, and free again when a value is no longer read."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from autopar.codegen.statements import Line
from autopar.codegen.steps import LocalValue, Loop


def assign(
    lines: Sequence[Line],
    arguments: Mapping[LocalValue, str],
    outputs: Sequence[LocalValue],
    bases: Mapping[str, str],
    reserved: frozenset[str],
) -> dict[LocalValue, str]:
    """A name for every variable of a function.

    `arguments` are the function's own with their names, `outputs` what it returns; `bases` gives a preferred name per value where
    the value's own will not do, `reserved` names mean something else. A name is free for another value after the last line that
    reads it.
    """
    last = {held: -1 for held in arguments}
    for i, line in enumerate(lines):
        last.update({held: i for held in line.reads})
    last.update(dict.fromkeys(outputs, len(lines)))
    names = dict(arguments)
    used: Counter[str] = Counter()  # names of what is read behind the line
    ends: dict[int, list[str]] = {}

    def keep(held: LocalValue, line: int) -> None:
        end = last.get(held, -1)
        if end > line:
            used[names[held]] += 1
            ends.setdefault(end, []).append(names[held])

    for held in arguments:
        keep(held, -1)
    for i, line in enumerate(lines):
        used.subtract(ends.pop(i, ()))
        taken = _kept(line, names)
        preferred = _carried(line, names)
        for held in filter(None, line.writes):
            if held not in names:
                candidates = itertools.chain(preferred.get(held, ()), _candidates(bases.get(held.value, held.value)))
                free = (name for name in candidates if not (name in reserved or name in taken or used[name] > 0))
                names[held] = next(free)
                keep(held, i)
            taken |= {names[held]}
    return names


def _carried(line: Line, names: Mapping[LocalValue, str]) -> dict[LocalValue, tuple[str, ...]]:
    """A loop's result goes by the name of what went in, where that is free."""
    step = line.steps[-1]
    if not isinstance(step, Loop):
        return {}
    return {
        step.writes[output]: (names[step.reads[entry]],) for entry, output in step.carried if step.reads[entry] in names
    }


def _kept(line: Line, names: Mapping[LocalValue, str]) -> set[str]:
    """The names of what every round of a loop reads anew: no result of a round may go by them."""
    step = line.steps[-1]
    if not isinstance(step, Loop):
        return set()
    carried = {entry for entry, _ in step.carried}
    return {names[held] for i, held in enumerate(step.reads) if i not in carried and held in names}


def _candidates(value: str) -> itertools.chain[str]:
    base = re.sub(r"_\d+$", "", value)
    return itertools.chain([base], (f"{base}_{i}" for i in itertools.count(2)))
