"""Simulated ranks: results, sub-groups, and that every failure ends all ranks and is told with its cause."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import CommError
from autopar.runtime import Grid, copy, simulate
from autopar.runtime.transport.base import joined
from autopar.runtime.transport.world import default_world, simulated_world


def test_results_come_in_rank_order():
    assert simulate(5, lambda: default_world().rank) == [0, 1, 2, 3, 4]
    assert simulated_world() is None


def test_groups_are_ordered_by_key_then_rank():
    def rank_main():
        world = default_world()
        group = world.split(world.rank % 2, -world.rank if world.rank % 2 else 0)
        return group.rank, group.gather_objects(world.rank)

    assert simulate(5, rank_main) == [(0, [0, 2, 4]), (1, [3, 1]), (1, [0, 2, 4]), (0, [3, 1]), (2, [0, 2, 4])]


def test_sums_that_are_under_way_may_be_finished_in_any_order():
    def rank_main():
        world = default_world()
        tensors = [torch.full((3,), float(world.rank + i)) for i in range(4)]
        works = [world.start_all_reduce(tensor) for tensor in tensors]
        while not works[2].test():
            pass
        for i in (3, 0, 2, 1):
            works[i].wait()
            works[i].wait()
        return [tensor.tolist() for tensor in tensors]

    assert simulate(3, rank_main)[1] == [[3.0] * 3, [6.0] * 3, [9.0] * 3, [12.0] * 3]


def test_a_sum_is_not_disturbed_by_what_a_rank_does_next():
    """A rank that is ahead may write into its tensor while a slow one has still to read what was sent."""

    def rank_main():
        world = default_world()
        tensor = torch.ones(2)
        world.all_reduce(tensor)
        if world.rank == 1:
            time.sleep(0.02)
        result = tensor.clone()
        tensor.zero_()
        world.exchange({1 - world.rank: tensor}, {1 - world.rank: torch.empty(2)})
        return result.tolist()

    assert simulate(2, rank_main) == [[2, 2], [2, 2]]


def test_messages_between_two_ranks_keep_their_order():
    def rank_main():
        world = default_world()
        if world.rank == 0:
            for i in range(3):
                world.exchange({1: torch.tensor([i])}, {})
            return []
        got = [torch.empty(1, dtype=torch.int64) for _ in range(3)]
        for one in got:
            world.exchange({}, {0: one})
        return [one.item() for one in got]

    assert simulate(2, rank_main)[1] == [0, 1, 2]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), ranks=st.integers(1, 5))
def test_all_to_all_of_any_sizes(data, ranks):
    sizes = [[data.draw(st.integers(0, 3)) for _ in range(ranks)] for _ in range(ranks)]

    def rank_main():
        world = default_world()
        sends = [torch.full((sizes[world.rank][j],), 10 * world.rank + j) for j in range(ranks)]
        recvs = [torch.empty(sizes[i][world.rank], dtype=torch.int64) for i in range(ranks)]
        world.all_to_all(sends, recvs)
        return [recv.tolist() for recv in recvs]

    results = simulate(ranks, rank_main)
    assert results == [[[10 * i + j] * sizes[i][j] for i in range(ranks)] for j in range(ranks)]


def test_the_first_exception_is_raised_and_all_ranks_end():
    def rank_main():
        world = default_world()
        if world.rank == 2:
            raise KeyError("rank 2 was first")
        world.barrier()

    before = threading.active_count()
    with pytest.raises(KeyError, match="rank 2 was first"):
        simulate(4, rank_main)
    assert threading.active_count() == before


def test_an_exception_in_backward_releases_the_others():
    def rank_main():
        axis = Grid("2").axes[0]
        x = torch.ones(2, requires_grad=True)
        y = copy(x, axis)
        if axis.index == 1:
            y.register_hook(lambda _: 1 / 0)
        y.sum().backward()

    with pytest.raises(ZeroDivisionError):
        simulate(2, rank_main)


def test_a_deadlock_is_seen_at_once_and_names_who_waits_in_what():
    def rank_main():
        world = default_world()
        if world.rank == 0:
            world.barrier()
        elif world.rank == 1:
            world.exchange({}, {2: torch.empty(1)})

    with pytest.raises(CommError) as caught:
        simulate(3, rank_main, timeout=3600)
    text = str(caught.value)
    assert "no rank can go on" in text
    assert "rank 0 waits in barrier, call 0 of the group of ranks 0,1,2" in text
    assert "rank 1 waits in exchange, for a message from rank 2" in text
    assert "rank 2 has ended" in text


def test_waiting_ends_by_the_timeout_while_another_rank_computes():
    go_on = threading.Event()

    def rank_main():
        world = default_world()
        if world.rank == 0:
            world.barrier()
        else:
            go_on.wait(10)

    threading.Timer(0.5, go_on.set).start()
    with pytest.raises(CommError, match=r"rank 0 has waited for 0\.2 s[^$]*rank 1 is computing"):
        simulate(2, rank_main, timeout=0.2)


def test_different_calls_that_meet_are_told_apart():
    def rank_main():
        world = default_world()
        if world.rank == 0:
            world.barrier()
        else:
            world.all_reduce(torch.ones(1))

    with pytest.raises(CommError, match=r"rank 0 is in barrier[^$]*rank 1 is in all_reduce"):
        simulate(2, rank_main)


def test_sizes_that_do_not_meet_are_refused():
    def rank_main():
        world = default_world()
        world.broadcast(torch.ones(2 + world.rank), 0)

    with pytest.raises(CommError, match="sends 2 elements where another expects 3"):
        simulate(2, rank_main)


def test_abort_ends_the_simulation():
    def rank_main():
        world = default_world()
        if world.rank == 1:
            world.abort(3)
        world.barrier()

    with pytest.raises(CommError, match="rank 1 has aborted the simulation with exit status 3"):
        simulate(2, rank_main)


def test_pieces_of_one_tensor_are_joined_without_a_copy():
    whole = torch.arange(10)
    pieces = whole.split([3, 0, 5, 2])
    assert joined(pieces).data_ptr() == whole.data_ptr()
    assert joined([pieces[2], pieces[0]]).tolist() == [3, 4, 5, 6, 7, 0, 1, 2]
    assert joined([whole[:0], whole[5:]]).tolist() == [5, 6, 7, 8, 9]
    assert joined([torch.arange(2), torch.arange(3)]).tolist() == [0, 1, 0, 1, 2]


def test_messages_are_told_apart_by_their_tags_and_may_be_asked_for_ahead():
    def rank_main():
        comm = default_world()
        left, right = (comm.rank - 1) % 3, (comm.rank + 1) % 3
        there = torch.empty(2, 4, dtype=torch.int64)
        works = [comm.start_receive(there[tag], left, tag, f"row {tag}") for tag in (0, 1)]
        sent = [comm.start_send(torch.full((4,), 10 * comm.rank + tag), right, tag, f"row {tag}") for tag in (1, 0)]
        comm.exchange({right: torch.tensor([comm.rank])}, {left: (plain := torch.empty(1, dtype=torch.int64))})
        for work in (*sent, *works):
            work.wait()
        assert all(work.test() for work in works)
        return there[:, 0].tolist(), plain.tolist()

    for rank, (there, plain) in enumerate(simulate(3, rank_main)):
        assert (there, plain) == ([10 * ((rank - 1) % 3), 10 * ((rank - 1) % 3) + 1], [(rank - 1) % 3])


def test_a_message_that_nobody_sends_is_named():
    def rank_main():
        comm = default_world()
        if comm.rank == 0:
            comm.start_receive(torch.empty(1), 1, 5, "add_2 of micro-batch 3").wait()

    with pytest.raises(CommError, match=r"rank 0 waits in start_receive, for add_2 of micro-batch 3 from rank 1"):
        simulate(2, rank_main)


def test_every_number_is_drawn_once_and_each_counter_has_its_own():
    def rank_main():
        world = default_world()
        group = world.split(world.rank % 2, world.rank)
        one, other = group.counter(), group.counter()
        drawn = [one.draw() for _ in range(20)]
        group.barrier()
        return drawn, other.draw()

    results = simulate(4, rank_main)
    for group in (results[0::2], results[1::2]):
        assert sorted(number for drawn, _ in group for number in drawn) == list(range(40))
        assert sorted(other for _, other in group) == [0, 1]
        assert all(drawn == sorted(drawn) for drawn, _ in group)
    assert any(results[0][0][i] + 1 < results[0][0][i + 1] for i in range(19)), "one rank has drawn all at once"
