"""Letters that execution shows to be legal, but a record's rule does not offer.

`autopar.ops.discovery.search` finds the letters of a call by running it: every combination of operand dims is tried, on
small made-up shapes, forward and backward, with results put together along a dim or summed. It needs no record, and so
it says what a record leaves out. Only calls with an operand dim that the rule never cuts are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from autopar.ops.discovery.call_shape import form_of
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
    offered = offers(op, most)
    found: dict[tuple[str, tuple[int, ...]], Missing] = {}
    for (call, letters), verdict in zip(offered, searched([call for call, _ in offered]), strict=True):
        for letter in verdict.letters:
            if letter.operands not in letters:
                found[call.node.target, letter.operands] = Missing(call.node.target, letter.operands, call)
    return list(found.values())


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
    """What the search finds for each, all in one child; nothing for a call of which torch's own code crashes."""
    if not calls:
        return []
    forms = list(map(form_of, calls))
    answer = in_child(lambda: msgspec.json.encode(list(map(search, forms))), 60.0 * len(calls))
    if answer is not None:
        return msgspec.json.decode(answer, type=list[Verdict])
    return [Verdict()] if len(calls) == 1 else [one for call in calls for one in searched([call])]


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
