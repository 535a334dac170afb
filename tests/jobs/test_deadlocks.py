"""Who waits in vain: never a rank of a program in which all ranks agree, always those that a left-out call has stranded."""

import random

from hypothesis import given
from hypothesis import strategies as st

from autopar.jobs.deadlocks import account, awaited, in_vain, last_seen
from autopar.jobs.flight_recorder import RankRecord, RecordedCall

GROUPS = [(0, 1), (2, 3), (0, 2), (1, 3), (0, 1, 2, 3)]  # of a grid 2x2: rows, columns, all


class Machine:
    """Ranks that run through lists of collective calls, each a group; a call ends once all of the group are in it."""

    def __init__(self, programs):
        self.programs = programs
        self.done = [0] * len(programs)
        self.inside = [False] * len(programs)
        self.entered = [{g: 0 for g, group in enumerate(GROUPS) if rank in group} for rank in range(len(programs))]

    def step(self, rank):
        """Let a rank go on as far as its next event; whether there was one."""
        if self.done[rank] == len(self.programs[rank]):
            return False
        group = self.programs[rank][self.done[rank]]
        if not self.inside[rank]:
            self.inside[rank] = True
            self.entered[rank][group] += 1
            return True
        if any(self.entered[other][group] < self.entered[rank][group] for other in GROUPS[group]):
            return False
        self.inside[rank] = False
        self.done[rank] += 1
        return True

    def seen(self):
        return [self._seen(rank) for rank in range(len(self.programs))]

    def _seen(self, rank):
        ended = self.done[rank] == len(self.programs[rank])
        calls = ()
        if self.inside[rank]:
            group = self.programs[rank][self.done[rank]]
            calls = (call(group + 1, self.entered[rank][group]),)
        entered = {group + 1: count for group, count in self.entered[rank].items()}
        return RankRecord(rank, 1, 0, "ended" if ended else "running", self.inside[rank], 0.0, entered, calls)


def call(group, number, peers=()):
    return RecordedCall(
        "all_sum", "build/program.py:7", "y = all_sum(x, AXIS)", "float32 [2]", "model", peers, group, number, 1.0
    )


def one(rank, state="running", waits=None, entered=None):
    calls = (waits,) if waits else ()
    return RankRecord(rank, 100 + rank, 0, state, waits is not None, 3.0, entered or {}, calls)


def own(program, rank):
    """What one rank does of a program that all have in common."""
    return [group for group in program if rank in GROUPS[group]]


programs = st.lists(st.integers(0, len(GROUPS) - 1), min_size=1, max_size=12)


@given(programs, st.integers(0, 10**6))
def test_nobody_waits_in_vain_while_all_run_one_program(program, seed):
    machine, draw = Machine([own(program, rank) for rank in range(4)]), random.Random(seed)
    quiet = 0
    while quiet < 60:
        quiet = 0 if machine.step(draw.randrange(4)) else quiet + 1
        assert not in_vain(machine.seen())
    assert machine.done == [len(own(program, rank)) for rank in range(4)]


@given(programs, st.integers(0, 3), st.data())
def test_whoever_is_stranded_by_a_call_left_out_waits_in_vain(program, rank, data):
    lists = [own(program, one) for one in range(4)]
    if lists[rank]:
        del lists[rank][data.draw(st.integers(0, len(lists[rank]) - 1))]
    machine = Machine(lists)
    while any([machine.step(one) for one in range(4)]):
        pass
    stranded = {one for one in range(4) if machine.done[one] < len(lists[one])}
    assert in_vain(machine.seen()) == stranded
    assert bool(stranded) == (lists[rank] != own(program, rank))


def test_a_wait_for_one_that_computes_or_is_stopped_may_end():
    waits = one(0, waits=call(5, 2), entered={5: 2})
    for state in ("running", "stopped"):
        every = [waits, one(1, state, entered={5: 1})]
        assert awaited(waits, every) == [1]
        assert not in_vain(every)
    for state in ("ended", "gone"):
        assert in_vain([waits, one(1, state, entered={5: 1})]) == {0}


def test_a_wait_behind_a_wait_in_vain_is_in_vain():
    first = one(0, waits=call(5, 2), entered={5: 2})
    second = one(1, waits=call(6, 1), entered={5: 1, 6: 1})
    assert in_vain([first, second, one(2, entered={6: 0})]) == set()
    assert in_vain([first, second, one(2, "ended", entered={6: 0})]) == {0, 1}


def test_an_exchange_waits_for_its_peers_only():
    first = one(0, waits=call(5, 0, peers=(1,)))
    assert awaited(first, [first, one(1), one(2)]) == [1]
    trading = one(1, waits=call(5, 0, peers=(0, 2)))
    assert awaited(first, [first, trading, one(2)]) == []
    assert awaited(trading, [first, trading, one(2, "ended")]) == [2]
    assert in_vain([first, trading, one(2, "ended")]) == {1}


def test_a_rank_that_was_stopped_in_an_exchange_may_have_what_it_needs():
    """Its message has come, the sender has gone on to a sum, and both go on once it is let go on."""
    stopped = one(1, "stopped", waits=call(5, 0, peers=(0,)), entered={6: 0})
    sender = one(0, waits=call(6, 1), entered={6: 1})
    assert awaited(stopped, [sender, stopped]) == [0]
    assert not in_vain([sender, stopped])


def test_ranks_of_other_hosts_may_still_come():
    """Only ranks that have noted the group are known; who is not known is not held against anybody."""
    waits = one(0, waits=call(5, 2), entered={5: 2})
    assert not in_vain([waits, one(1, entered={6: 1})])
    assert "3 ranks on other hosts" in account(0, [waits], 10.0, elsewhere=3)


def test_the_account_tells_all_ranks_and_groups_those_alike():
    waits = [one(rank, waits=call(5, 2), entered={5: 2}) for rank in (0, 1, 2, 5)]
    every = sorted([*waits, one(3, "stopped", entered={5: 1}), one(4, entered={5: 1})], key=lambda seen: seen.rank)
    text = account(1, every, 603.04, 0)
    assert text.splitlines()[:8] == [
        "rank 1, all_sum at build/program.py:7, float32 [2], over model: has waited for 600.0 s",
        "  rule: all ranks of a group enter the same calls, in one order",
        "  - ranks 0-2, 5 wait for ranks 3, 4 in all_sum at build/program.py:7, float32 [2], over model (600.0 s)",
        "      y = all_sum(x, AXIS)",
        "  - rank 3 is stopped (process 103), before its first call (600.0 s)",
        "  - rank 4 is computing, before its first call (600.0 s)",
        "  fix: find out who has stopped rank 3: `kill -CONT` lets it go on",
        "last calls of ranks 0-2, 5:",
    ]


def test_several_ranks_have_plural_verbs_and_nothing_else_changes():
    said = RecordedCall("analysis is done", "build/program.py:7", "", "", "", (), 5, 1, 1.0)
    waits = [one(rank, waits=said, entered={5: 1}) for rank in (0, 1)]
    ended = [one(rank, "ended", entered={5: 0}) for rank in (2, 3)]
    text = account(0, [*waits, *ended], 4.0, 0)
    assert "  - ranks 0, 1 wait for ranks 2, 3 in analysis is done at build/program.py:7 (1.0 s)" in text
    assert "  - ranks 2, 3 have ended, before" in text


def test_the_fix_depends_on_the_cause():
    waits = one(0, waits=call(5, 2), entered={5: 2})
    fixes = {
        "ended": "look for why rank 1 came to the end of the program first",
        "gone": "rank 1 died: killed, perhaps for want of memory, or by os._exit",
        "running": "if rank 1 only needs longer, set AUTOPAR_TIMEOUT to more seconds (0: no limit)",
    }
    for state, fix in fixes.items():
        assert f"\n  fix: {fix}\n" in account(0, [waits, one(1, state, entered={5: 1})], 10.0, 0)
    circle = [waits, one(1, waits=call(6, 1), entered={5: 1, 6: 1})]
    circle[0] = one(0, waits=call(5, 2), entered={5: 2, 6: 0})
    assert ", and would wait for ever" in account(0, circle, 10.0, 0)
    assert "a rank has left out a call, or made one too many, near these lines" in account(0, circle, 10.0, 0)
    together = [waits, one(1, waits=call(5, 2), entered={5: 2})]
    assert "which all others have entered" in account(0, together, 10.0, 0)
    apart = account(0, together, 10.0, 2)
    assert "which all others on this host have entered" in apart
    assert "look at the other hosts" in apart


def test_where_a_rank_was_last_seen():
    assert last_seen(one(0)) == "before its first call"
    inside = one(0, waits=call(5, 1))
    assert last_seen(inside).startswith("in all_sum at build/program.py:7, float32 [2], over model\n")
