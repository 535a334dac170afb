"""Who waits for whom, worked out from what a host's ranks have noted, and said so that a person can act on it.

A rank in call k of a group waits for those ranks of the group that have entered fewer than k of its calls; in an
exchange, for the peers that are not in one. A rank can go on if it computes or is stopped (its call may be over, and only
itself not know), or if all that it waits for can go on. Who cannot, waits in vain: for a rank that has ended, or in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from autopar.errors import refusal
from autopar.jobs.flight_recorder import RankRecord

_TABLES = 8  # ranks with different last calls that are shown in full
_PLURAL = {"waits": "wait", "is": "are", "has": "have"}


def awaited(record: RankRecord, every: Sequence[RankRecord]) -> list[int]:
    """The ranks of this host that have to enter the call in which `record` is before it can end."""
    call = record.waiting
    if call is None:
        return []
    others = [other for other in every if other.rank != record.rank]
    if call.number:
        return [other.rank for other in others if other.entered.get(call.group, call.number) < call.number]
    return [other.rank for other in others if other.rank in call.peers and not _trading(other, call.group)]


def in_vain(every: Sequence[RankRecord]) -> set[int]:
    """The ranks that wait and can never go on."""
    waits = {record.rank: ranks for record in every if record.state == "running" and (ranks := awaited(record, every))}
    free = {record.rank for record in every if record.state in ("running", "stopped")} - set(waits)
    while more := {rank for rank, ranks in waits.items() if rank not in free and free.issuperset(ranks)}:
        free |= more
    return set(waits) - free


def account(me: int, every: Sequence[RankRecord], now: float, elsewhere: int) -> str:
    """What rank `me` has to say of its wait, with the last calls of all ranks. `elsewhere`: ranks of other hosts."""
    mine = next(record for record in every if record.rank == me)
    vain = me in in_vain(every)
    where = f"rank {me}, {mine.waiting}" if mine.waiting else f"rank {me}"
    fault = f"has waited for {now - mine.since:.1f} s" + (", and would wait for ever" if vain else "")
    rule = "all ranks of a group enter the same calls, in one order"
    lines = _together(every, lambda record: _state(record, every, elsewhere), lambda record: now - record.since)
    lines += [f"{elsewhere} ranks on other hosts, which speak for themselves"] if elsewhere else []
    return refusal(where, fault, rule, lines, _fix(every, vain, elsewhere)) + "\n" + _tables(every, now)


def last_seen(record: RankRecord) -> str:
    """Where a rank was when it was last seen."""
    if not record.calls:
        return "before its first call"
    return f"{'in' if record.inside else 'after'} {record.calls[0]}{_source(record.calls[0].source)}"


def _state(record: RankRecord, every: Sequence[RankRecord], elsewhere: int) -> str:
    call = record.waiting
    if record.state == "ended":
        return f"has ended, {last_seen(record)}"
    if record.state == "gone":
        return f"is gone without a word, {last_seen(record)}"
    if record.state == "stopped":
        return f"is stopped (process {record.process}), {last_seen(record)}"
    if call is None:
        return f"is computing, {last_seen(record)}"
    ranks = awaited(record, every)
    source = _source(call.source)
    if not ranks:
        return f"is in {call}, which all others{' on this host' if elsewhere else ''} have entered{source}"
    return f"waits for {_ranks(ranks)} in {call}{source}"


def _fix(every: Sequence[RankRecord], vain: bool, elsewhere: int) -> str:
    waiting: dict[str, list[int]] = {}
    for record in every:
        state = "computing" if record.state == "running" and not record.inside else record.state
        waiting.setdefault(state, []).append(record.rank)
    if "stopped" in waiting:
        return f"find out who has stopped {_ranks(waiting['stopped'])}: `kill -CONT` lets it go on"
    if "gone" in waiting:
        return f"{_ranks(waiting['gone'])} died: killed, perhaps for want of memory, or by os._exit"
    if vain and "ended" in waiting:
        return f"look for why {_ranks(waiting['ended'])} came to the end of the program first"
    if vain:
        return "a rank has left out a call, or made one too many, near these lines"
    if "computing" in waiting:
        slow = _ranks(waiting["computing"])
        return f"if {slow} only needs longer, set AUTOPAR_TIMEOUT to more seconds (0: no limit)"
    if elsewhere:
        return "look at the other hosts: a rank there is late or has ended, or the network between them is down"
    return "all have entered: the network, or sizes that differ (AUTOPAR_CHECK=1 compares them)"


def _tables(every: Sequence[RankRecord], now: float) -> str:
    calls = {record.rank: tuple(map(str, reversed(record.calls))) for record in every}
    groups: dict[tuple[str, ...], list[RankRecord]] = {}
    for record in every:
        groups.setdefault(calls[record.rank], []).append(record)
    blocks = []
    for said, members in list(groups.items())[:_TABLES]:
        begun = [now - call.begin for call in reversed(members[0].calls)]
        rows = [f"  {seconds:8.2f} s ago  {text}" for seconds, text in zip(begun, said, strict=True)]
        blocks.append("\n".join([f"last calls of {_ranks([member.rank for member in members])}:", *rows]))
    if len(groups) > _TABLES:
        blocks.append(f"and {len(groups) - _TABLES} other lists of last calls")
    return "\n".join(blocks)


def _together(
    every: Sequence[RankRecord], text: Callable[[RankRecord], str], seconds: Callable[[RankRecord], float]
) -> list[str]:
    """One line for all ranks of which the same is to be said, with the longest of their times."""
    groups: dict[str, list[RankRecord]] = {}
    for record in every:
        groups.setdefault(text(record), []).append(record)
    lines = []
    for said, members in groups.items():
        head, *source = said.split("\n")
        longest = max(map(seconds, members))
        verb, rest = head.split(" ", 1)
        verb = verb if len(members) == 1 else _PLURAL[verb]
        lines.append(
            "\n".join([f"{_ranks([member.rank for member in members])} {verb} {rest} ({longest:.1f} s)", *source])
        )
    return lines


def _trading(other: RankRecord, group: int) -> bool:
    call = other.waiting
    return call is not None and call.group == group and call.number == 0


def _source(text: str) -> str:
    return f"\n      {text}" if text else ""


def _ranks(ranks: Iterable[int]) -> str:
    """``rank 3``, ``ranks 0, 2-5``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][-1] == rank - 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    said = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"rank{'s' if sum(map(len, runs)) > 1 else ''} {', '.join(said)}"
