"""Ranks that are threads of one process, so that a distributed program runs, and is tested, without MPI.

    simulate(4, function) -> [function() on rank 0, ..., function() on rank 3]

All ranks of a simulation share one `World`: a lock, a count of who waits for what, and the first failure. A
collective is a numbered round of a group: every rank leaves a copy of what it sends, and takes what it needs once all
have. A message is an entry in a queue from one rank to another. Since all waiting happens in one place, a deadlock
(every rank waits or has ended, and nobody can go on) is seen at once and told with what each rank waits for; a
failure of one rank ends all.

Ranks take turns: one computes until it waits, then the next. Threads that all call torch at once hand Python's lock to
one another at every operator, from core to core, and are slower together than one after the other. A turn is no lock: a
rank that has been kept from it for `_PATIENCE` goes on beside the others, so that long operators still run side by side.

Simulated ranks share torch's random number generator: draw from an explicit generator where numbers matter.
"""

# ruff: noqa: D102  (the methods of a communicator are described once, in base.py)

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from autopar.errors import CommError, refusal
from autopar.runtime.transport.base import Comm, Counter, Pieces, Work, check_tensors, pieces_of, restore, summable
from autopar.runtime.transport.simulation import Members, World
from autopar.runtime.transport.world import use_world

T = TypeVar("T")

_YIELD = 1e-4  # seconds in which another rank gets its turn
_EXCHANGED = -1  # the tag of what `exchange` sends


def simulate(ranks: int, function: Callable[[], T], timeout: float = 60.0) -> list[T]:
    """Run `function` on `ranks` simulated ranks and return their results in rank order.

    Inside, `default_world()` is a communicator of that many ranks, and so `Grid(...)` works as under MPI. The first
    exception that any rank raises ends all ranks and is raised here. Raises CommError where ranks wait for each other
    in vain: at once if none can go on, after `timeout` seconds of waiting if some rank still computes.
    """
    world = World(ranks, timeout)
    everyone = Members(tuple(range(ranks)))
    results: list[T | None] = [None] * ranks

    def run(rank: int) -> None:
        try:
            with world.turns(), use_world(ThreadComm(world, everyone, rank)):
                results[rank] = function()
        except BaseException as error:  # handed on to the caller of simulate, whatever it is
            world.fail(error)
        finally:
            world.end(rank)

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    world.join(threads)
    return results  # type: ignore[return-value]  # all are set: no rank failed


class ThreadComm(Comm):
    """One simulated rank's view of a group of ranks."""

    def __init__(self, world: World, group: Members, rank: int) -> None:
        self._world = world
        self._group = group
        self._rank = rank
        self._round = 0
        self._seconds = 0.0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return len(self._group.members)

    @property
    def seconds(self) -> float:
        return self._seconds

    @property
    def largest_tag(self) -> int:
        return 1 << 62

    def empty(self, numel: int, dtype: torch.dtype) -> Tensor:
        self._meet("empty", numel)
        return torch.empty(numel, dtype=dtype)

    def release(self, tensor: Tensor) -> None:
        self._meet("release", None)

    def all_reduce(self, tensor: Tensor) -> None:
        check_tensors("all_reduce", [tensor])
        _ThreadSum(self, tensor, "all_reduce").wait()

    def start_all_reduce(self, tensor: Tensor) -> Work:
        check_tensors("start_all_reduce", [tensor])
        return _ThreadSum(self, tensor, "start_all_reduce")

    def all_gather(self, tensor: Tensor, outs: Pieces) -> None:
        outs = pieces_of(outs)
        check_tensors("all_gather", [tensor, *outs])
        for out, sent in zip(outs, self._meet("all_gather", tensor.clone()), strict=True):
            out.copy_(_same_size("all_gather", sent, out))

    def reduce_scatter(self, parts: Pieces, out: Tensor) -> None:
        parts = pieces_of(parts)
        check_tensors("reduce_scatter", [*parts, out])
        sent_parts = self._meet("reduce_scatter", [summable(part).clone() for part in parts])
        restore_sum(out, [sent[self._rank] for sent in sent_parts])

    def all_to_all(self, sends: Pieces, recvs: Pieces) -> None:
        assert isinstance(sends, Tensor) == isinstance(recvs, Tensor), "messages of one size, or of any"
        sends, recvs = (pieces_of(pieces) for pieces in (sends, recvs))
        check_tensors("all_to_all", [*sends, *recvs])
        sent_parts = self._meet("all_to_all", [part.clone() for part in sends])
        for recv, sent in zip(recvs, sent_parts, strict=True):
            recv.copy_(_same_size("all_to_all", sent[self._rank], recv))

    def exchange(self, sends: dict[int, Tensor], recvs: dict[int, Tensor]) -> None:
        check_tensors("exchange", [*sends.values(), *recvs.values()])
        start = time.perf_counter()
        messages = self._group.messages
        with self._world.changed:
            for to, tensor in sends.items():
                assert to != self._rank, "a rank does not send to itself"
                messages[self._rank, to, _EXCHANGED].append(tensor.clone())
            self._world.changed.notify_all()
            for source, tensor in recvs.items():
                queue = messages[source, self._rank, _EXCHANGED]
                what = f"exchange, for a message from {self._name(source)}"
                self._world.wait(self._group.members[self._rank], what, queue.__len__)
                tensor.copy_(_same_size("exchange", queue.popleft(), tensor))
        self._world.take_turn()
        self._seconds += time.perf_counter() - start

    def start_send(self, tensor: Tensor, to: int, tag: int, what: str) -> Work:
        check_tensors("start_send", [tensor])
        with self._world.changed:
            self._group.messages[self._rank, to, tag].append(tensor.clone())
            self._world.changed.notify_all()
        return _Sent()

    def start_receive(self, tensor: Tensor, source: int, tag: int, what: str) -> Work:
        check_tensors("start_receive", [tensor])
        return _ThreadReceive(self, tensor, source, tag, what)

    def note(self, what: str, file: str, line: int) -> None:
        """Nobody watches."""

    def broadcast(self, tensor: Tensor, root: int) -> None:
        check_tensors("broadcast", [tensor])
        sent = self._meet("broadcast", tensor.clone() if self._rank == root else None)[root]
        if self._rank != root:
            tensor.copy_(_same_size("broadcast", sent, tensor))

    def gather_objects(self, item: object) -> list[object]:
        return [json.loads(text) for text in self._meet("gather_objects", json.dumps(item))]

    def split(self, color: int, key: int) -> ThreadComm:
        this_round = self._round
        colors = self._meet("split", (color, key))
        ranks = sorted((other_key, rank) for rank, (other, other_key) in enumerate(colors) if other == color)
        members = tuple(self._group.members[rank] for _, rank in ranks)
        with self._world.changed:
            name = (id(self._group), this_round, color)
            group = self._world.groups.setdefault(name, Members(members))
        return ThreadComm(self._world, group, ranks.index((key, self._rank)))

    def counter(self) -> Counter:
        this_round = self._round
        self._meet("counter", None)
        return _ThreadCounter(self._world, self._group, this_round)

    def barrier(self) -> None:
        self._meet("barrier", None)

    def free(self) -> None:
        """Nothing to give back."""

    def abort(self, code: int) -> None:
        error = CommError(f"{self._name(self._rank)} has aborted the simulation with exit status {code}")
        self._world.fail(error)
        raise error

    def _name(self, rank: int) -> str:
        return f"rank {self._group.members[rank]}"

    def _meet(self, what: str, item: object) -> list:  # type: ignore[type-arg]  # of whatever `item` is
        number = self._enter(what, item)
        return self._leave(what, number)

    def _enter(self, what: str, item: object) -> int:
        """Leave `item` for the others in the next round, and return the round's number."""
        number = self._round
        self._round += 1
        with self._world.changed:
            self._group.rounds[number][self._rank] = (what, item)
            if self._arrived(number):  # before that, nobody who waits can go on
                self._world.changed.notify_all()
        return number

    def _arrived(self, number: int) -> bool:
        return len(self._group.rounds[number]) == self.size

    def _leave(self, what: str, number: int) -> list:  # type: ignore[type-arg]
        """What every rank has left in a round, once all have."""
        start = time.perf_counter()
        with self._world.changed:
            members = ",".join(str(member) for member in self._group.members)
            text = f"{what}, call {number} of the group of ranks {members}"
            self._world.wait(self._group.members[self._rank], text, lambda: self._arrived(number))
            left = self._group.rounds[number]
            self._group.taken[number] += 1
            if self._group.taken[number] == self.size:
                del self._group.rounds[number], self._group.taken[number]
        self._world.take_turn()
        self._seconds += time.perf_counter() - start
        calls = [left[rank][0] for rank in range(self.size)]
        if len(set(calls)) > 1:
            lines = [f"{self._name(rank)} is in {call}" for rank, call in enumerate(calls)]
            raise CommError(
                refusal("simulation", "ranks of a group meet in different calls", "they enter the same call", lines)
            )
        return [left[rank][1] for rank in range(self.size)]


class _ThreadCounter(Counter):
    """A number that the members of a group share, by the round in which it was made."""

    def __init__(self, world: World, group: Members, number: int) -> None:
        self._world = world
        self._numbers = group.counters[number]

    def draw(self) -> int:
        with self._world.changed:
            self._world.raise_if_failed()
            drawn = next(self._numbers)
        self._world.give_turn()  # to others who would draw: who computes in between is not to take all of it
        time.sleep(_YIELD)
        self._world.take_turn()
        return drawn

    def free(self) -> None:
        """Nothing to give back."""


class _Sent(Work):
    """A message that lies in the queue of its receiver."""

    def wait(self) -> None:
        pass

    def test(self) -> bool:
        return True


class _ThreadReceive(Work):
    """A message that is to come."""

    def __init__(self, comm: ThreadComm, tensor: Tensor, source: int, tag: int, what: str) -> None:
        self._comm = comm
        self._tensor = tensor
        self._queue = comm._group.messages[source, comm.rank, tag]
        self._what = f"start_receive, for {what} from {comm._name(source)}"
        self._done = False

    def wait(self) -> None:
        if self._done:
            return
        comm, start = self._comm, time.perf_counter()
        with comm._world.changed:
            comm._world.wait(comm._group.members[comm.rank], self._what, self._queue.__len__)
            self._tensor.copy_(_same_size("start_receive", self._queue.popleft(), self._tensor))
        self._done = True
        comm._world.take_turn()
        comm._seconds += time.perf_counter() - start

    def test(self) -> bool:
        with self._comm._world.changed:
            self._comm._world.raise_if_failed()
            there = self._done or len(self._queue) > 0
        if there:
            self.wait()
        else:
            self._comm._world.give_turn()  # who asks again and again must not keep the sender from its turn
        return there


class _ThreadSum(Work):
    """An all-reduce under way: what this rank adds is left behind at once, the sum is taken by `wait`."""

    def __init__(self, comm: ThreadComm, tensor: Tensor, what: str) -> None:
        self._comm = comm
        self._tensor = tensor
        self._what = what
        self._done = False
        self._number = comm._enter(what, summable(tensor).clone())

    def wait(self) -> None:
        if not self._done:
            restore_sum(self._tensor, self._comm._leave(self._what, self._number))
            self._done = True

    def test(self) -> bool:
        with self._comm._world.changed:
            self._comm._world.raise_if_failed()
            arrived = self._done or self._comm._arrived(self._number)
        if arrived:
            self.wait()
        else:
            self._comm._world.give_turn()  # who asks again and again must not keep the others from arriving
        return arrived


def restore_sum(out: Tensor, parts: Sequence[Tensor]) -> None:
    """Put the sum of `parts`, taken in rank order so that it is the same on every rank, into `out`."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += _same_size("sum", part, total)
    if out.is_complex():
        total = torch.view_as_complex(total)
    restore(out, _same_size("sum", total, out))


def _same_size(where: str, sent: Tensor, recv: Tensor) -> Tensor:
    """`sent` in the shape of `recv`; ranks that disagree on a size or a type have made a mistake of ours."""
    if sent.numel() != recv.numel():
        raise CommError(f"{where}: one rank sends {sent.numel()} elements where another expects {recv.numel()}")
    return sent.reshape(recv.shape)
