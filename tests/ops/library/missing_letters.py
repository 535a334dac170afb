"""Letters that execution shows to be legal, but a record's rule does not offer.

`autopar.ops.discovery.search` finds the letters of a call by running it: every combination of operand dims is tried, on
small made-up shapes, forward and backward, with results put together along a dim or summed. It needs no record, and so
it says what a record leaves out. Only calls with an operand dim that the rule never cuts are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from autopar.ops.discovery.call_shape import Form, form_of
from autopar.ops.discovery.sandbox import in_child
from autopar.ops.discovery.search import Verdict, search
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Rule, shard_of
from autopar.proof.reference import whole_of


@dataclass(frozen=True)
class Missing:
    """A letter by its dim in every operand, -1 where an operand lacks it; and the call that has it."""

    target: str
    dims: tuple[int, ...]
    call: Call


def missing(op: Op, most: int) -> list[Missing]:
    """The letters that the record's rule leaves out in its samples, at most so many of them per target."""
    return missing_of([op], most)[op.name]


def missing_of(ops: Sequence[Op], most: int) -> dict[str, list[Missing]]:
    """`missing` for several records, by their names."""
    offered = {op.name: offers(op, most) for op in ops}
    verdicts = iter(searched([call for calls in offered.values() for call, _ in calls]))
    return {name: list(_left_out(calls, verdicts)) for name, calls in offered.items()}


def _left_out(calls: list[tuple[Call, set[tuple[int, ...]]]], verdicts: Iterator[Verdict]) -> Iterator[Missing]:
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for call, letters in calls:
        for letter in next(verdicts).letters:
            if letter.operands not in letters and (call.node.target, letter.operands) not in seen:
                seen.add((call.node.target, letter.operands))
                yield Missing(call.node.target, letter.operands, call)


def offers(op: Op, most: int) -> list[tuple[Call, set[tuple[int, ...]]]]:
    """The calls of the record's samples in which an operand has a dim that no letter cuts, and the letters of each."""
    calls: list[tuple[Call, set[tuple[int, ...]]]] = []
    of_target: Counter[str] = Counter()
    for sample in op.samples:
        call = whole_of(op, sample).call
        try:
            rule = op.rule(call)
        except ValueError:
            continue
        letters = {dims_of(rule, letter) for letter in rule.letters}
        target = call.node.target
        if not target.startswith("autopar.") and of_target[target] < most and _uncut(call, letters):
            of_target[target] += 1
            calls.append((call, letters))
    return calls


def searched(calls: Sequence[Call]) -> list[Verdict]:
    """What the search finds for each; nothing for a call of which torch's own code crashes."""
    forms = list(map(form_of, calls))
    _search([form for form in dict.fromkeys(forms) if form not in _KNOWN])
    return [_KNOWN[form] for form in forms]


_KNOWN: dict[Form, Verdict] = {}


def _search(forms: Sequence[Form]) -> None:
    """All in one child; where that crashes, in two."""
    if not forms:
        return
    answer = in_child(lambda: msgspec.json.encode(list(map(search, forms))), 60.0 * len(forms))
    if answer is not None:
        _KNOWN.update(zip(forms, msgspec.json.decode(answer, type=list[Verdict]), strict=True))
    elif len(forms) == 1:
        _KNOWN[forms[0]] = Verdict()
    else:
        half = len(forms) // 2
        _search(forms[:half])
        _search(forms[half:])


def dims_of(rule: Rule, letter: str) -> tuple[int, ...]:
    """The dim that is cut in every operand where this letter is split."""
    shards = (shard_of(dims, rule.extents, letter) for dims in rule.operands)
    return tuple(-1 if shard is None else shard.dim for shard in shards)


def _uncut(call: Call, offered: set[tuple[int, ...]]) -> bool:
    """Whether some operand has a dim of several rows that no letter cuts."""
    return any(
        n > 1 and all(dims[i] != dim for dims in offered)
        for i, value in enumerate(call.operands)
        for dim, n in enumerate(value.shape)
    )
