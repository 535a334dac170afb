"""What the ranks of a simulation share: who waits for what, whose turn it is, and the first failure."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from autopar.errors import CommError, refusal

_PATIENCE = 0.05  # seconds that a rank waits for its turn


class Released(CommError):
    """Raised in a rank that waits while another one has failed; never the first cause."""


class Members:
    """The members of one communicator (their world ranks), its rounds, counters and messages; guarded by the world's lock."""

    def __init__(self, members: tuple[int, ...]) -> None:
        self.members = members
        self.rounds: dict[int, dict[int, tuple[str, object]]] = defaultdict(dict)
        self.taken: dict[int, int] = defaultdict(int)
        self.counters: dict[int, Iterator[int]] = defaultdict(itertools.count)  # by the round in which they were made
        self.messages: dict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)  # by sender, receiver and tag


class World:
    """What the ranks of one simulation share; `waiting` says what a rank waits for, and how to see that it came."""

    def __init__(self, ranks: int, timeout: float) -> None:
        self.ranks = ranks
        self.timeout = timeout
        self.changed = threading.Condition()
        self.waiting: dict[int, tuple[str, Callable[[], object]]] = {}
        self.ended: set[int] = set()
        self.failure: BaseException | None = None
        self.groups: dict[tuple[int, int, int], Members] = {}
        self._turn = threading.Lock()
        self._has_turn: int | None = None  # this thread
        self._takes_turns: set[int] = set()  # threads that are ranks; others, which a rank has started, run beside

    @contextmanager
    def turns(self) -> Iterator[None]:
        """This thread is a rank: it computes in its turn."""
        self._takes_turns.add(threading.get_ident())
        self.take_turn()
        try:
            yield
        finally:
            self.give_turn()
            self._takes_turns.remove(threading.get_ident())

    def take_turn(self) -> None:
        """Called without the lock, after whatever may have waited."""
        me = threading.get_ident()
        if me in self._takes_turns and self._has_turn != me and self._turn.acquire(timeout=_PATIENCE):
            self._has_turn = me

    def give_turn(self) -> None:
        """Another rank's turn, if it was this thread's."""
        if self._has_turn == threading.get_ident():
            self._has_turn = None
            self._turn.release()

    def fail(self, error: BaseException) -> None:
        """End all ranks; the first failure is the cause."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def end(self, rank: int) -> None:
        """A rank has ended: whoever waits for it waits in vain."""
        with self.changed:
            self.ended.add(rank)
            self._look_for_deadlock()
            self.changed.notify_all()

    def join(self, threads: list[threading.Thread]) -> None:
        """Wait for all ranks; after a failure not beyond the time limit, since a rank may compute without end."""
        with self.changed:
            self.changed.wait_for(lambda: self.failure is not None or len(self.ended) == self.ranks)
            self.changed.wait_for(lambda: len(self.ended) == self.ranks, self.timeout)
            failure = self.failure
        if failure is not None:
            raise failure
        for thread in threads:
            thread.join()

    def wait(self, rank: int, what: str, ready: Callable[[], object]) -> None:
        """Wait, holding the lock, until `ready()` is true; raises CommError where that cannot be."""
        limit = time.monotonic() + self.timeout
        while not ready():
            self.raise_if_failed()
            self.waiting[rank] = (what, ready)
            self._look_for_deadlock()
            self.raise_if_failed()
            self.give_turn()
            if not self.changed.wait(limit - time.monotonic()) and time.monotonic() >= limit and not ready():
                self.raise_if_failed()
                error = self._stuck(f"rank {rank} has waited for {self.timeout:g} s")
                self.failure = error
                self.changed.notify_all()
                raise error
            self.waiting.pop(rank, None)
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        """Released, where another rank has failed."""
        if self.failure is not None:
            raise Released("another rank of this simulation has failed") from self.failure

    def _look_for_deadlock(self) -> None:
        if not self.waiting or self.failure is not None or len(self.waiting) + len(self.ended) < self.ranks:
            return
        if not any(ready() for _, ready in self.waiting.values()):
            self.failure = self._stuck("no rank can go on")
            self.changed.notify_all()

    def _stuck(self, cause: str) -> CommError:
        lines = []
        for rank in range(self.ranks):
            state = "has ended" if rank in self.ended else "is computing"
            lines.append(f"rank {rank} " + (f"waits in {self.waiting[rank][0]}" if rank in self.waiting else state))
        return CommError(refusal("simulation", cause, "all ranks of a group enter the same calls in one order", lines))
