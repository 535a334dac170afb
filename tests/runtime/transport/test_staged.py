"""Device tensors over a communicator that knows the CPU's only; the device is the one of fake_device.py.

Under mpiexec this file is the program of the ranks of its last test.
"""

import ctypes
import random
import time
from types import SimpleNamespace

import pytest
import torch
from fake_device import STREAM, Buffers, OnDevice, computed, garbage, on_device, read
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autopar.runtime import Grid, all_sum, gather, simulate
from autopar.runtime.diagnostics.watched_comm import WatchedComm
from autopar.runtime.transport import base, staged
from autopar.runtime.transport.base import Comm, check_tensors
from autopar.runtime.transport.device import CUDA, cuda_aware, says_cuda
from autopar.runtime.transport.staged import StagedComm, stage
from autopar.runtime.transport.world import default_world

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.int64)
STRAIGHT = {"all_reduce", "all_gather", "all_to_all", "exchange", "broadcast"}


def tensors_in(given):
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, dict):
        given = list(given.values())
    return [tensor for one in given for tensor in tensors_in(one)] if isinstance(given, list | tuple) else []


class Guard:
    """The wrapped communicator: notes the tensors of each call."""

    def __init__(self, inner, calls):
        self.inner, self.calls = inner, calls

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found):
            return found

        def call(*args):
            self.calls.append((name, tensors_in(args)))
            result = found(*args)
            return Guard(result, self.calls) if name == "split" else result

        return call

    def reached_by_device(self):
        return {name for name, tensors in self.calls if any(isinstance(one, OnDevice) for one in tensors)}


def numbers(generator, numel, dtype):
    drawn = torch.randint(0, 9, (numel,), generator=generator)
    return drawn > 4 if dtype == torch.bool else drawn.to(dtype)


def every_call(comm: Comm, place, seed, dtype):
    """Results of all methods. `place` says where a tensor lies; sizes differ, and may be none."""
    rank, ranks = comm.rank, comm.size
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    sizes = random.Random(seed)
    uneven = [[sizes.choice((0, 1, 3, 8)) for _ in range(ranks)] for _ in range(ranks)]
    results = []

    def given(numel):
        return place(numbers(generator, numel, dtype))

    def room(numel):
        results.append(place(garbage(torch.empty(numel, dtype=dtype))))
        return results[-1]

    def summed(numel):
        results.append(given(numel).view(-1, 2))
        return results[-1]

    comm.all_reduce(summed(12))
    works = [comm.start_all_reduce(summed(6)) for _ in range(3)]
    works[0].wait()
    works[0].wait()
    while not all(work.test() for work in works):
        time.sleep(0)
    comm.all_gather(given(uneven[0][rank]), [room(size) for size in uneven[0]])
    comm.all_gather(given(5), [room(5) for _ in range(ranks)])
    comm.reduce_scatter([given(size) for size in uneven[0]], room(uneven[0][rank]))
    comm.all_to_all([given(size) for size in uneven[rank]], [room(row[rank]) for row in uneven])
    comm.all_to_all([given(3) for _ in range(ranks)], [room(3) for _ in range(ranks)])
    comm.all_gather(given(5), room(5 * ranks).view(ranks, 5))
    comm.reduce_scatter(given(4 * ranks).view(ranks, 4), room(4))
    comm.all_to_all(given(3 * ranks).view(ranks, 3), room(3 * ranks).view(ranks, 3))
    for _ in range(3):  # the second may meet a buffer that is still being copied to the device
        comm.broadcast(given(4) if rank == 0 else room(4), 0)
    for step in range(1, ranks):
        comm.exchange({(rank + step) % ranks: given(rank)}, {(rank - step) % ranks: room((rank - step) % ranks)})
    part = comm.split(rank % 2, -rank)
    part.all_reduce(summed(4))
    part.free()
    flat = comm.empty(8, torch.float32)
    comm.all_reduce(flat.fill_(rank))
    results.append(flat.clone())
    comm.release(flat)
    comm.barrier()
    assert comm.gather_objects([rank]) == [[one] for one in range(ranks)]
    return [read(result) for result in results]


def anywhere(seed):
    """Places tensors on the device or not, as chance has it."""
    chance = random.Random(seed)
    return lambda tensor: on_device(tensor) if chance.random() < 0.6 else tensor


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6), st.sampled_from(TYPES), st.booleans(), st.booleans())
def test_every_call_gives_what_it_gives_without_a_device(ranks, seed, dtype, direct, mixed):
    def on_rank():
        guard = Guard(default_world(), [])
        place = anywhere(seed + guard.rank) if mixed else on_device
        results = every_call(StagedComm(guard, Buffers().host, direct), place, seed, dtype)
        assert guard.reached_by_device() <= (STRAIGHT if direct else set())
        return results

    expected = simulate(ranks, lambda: every_call(default_world(), lambda tensor: tensor, seed, dtype))
    for theirs, mine in zip(expected, simulate(ranks, on_rank), strict=True):
        for one, other in zip(theirs, mine, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_a_cuda_aware_mpi_is_given_device_tensors_where_that_is_safe():
    def on_rank():
        guard = Guard(default_world(), [])
        buffers = Buffers()
        every_call(StagedComm(guard, buffers.host, True), on_device, 3, torch.float16)
        uneven, listed, whole = ([*tensors] for name, tensors in guard.calls if name == "all_gather")
        assert len({one.numel() for one in uneven}) > 1
        assert all(isinstance(one, OnDevice) for one in whole)
        return guard.reached_by_device(), any(isinstance(one, OnDevice) for one in (*uneven, *listed))

    assert simulate(3, on_rank) == [(STRAIGHT, False)] * 3


def test_tensors_of_the_cpu_pass_through_as_they_are():
    def on_rank():
        guard, mine = Guard(default_world(), []), []
        buffers = Buffers()

        def place(tensor):
            mine.append(tensor.view(-1))
            return tensor

        every_call(StagedComm(guard, buffers.host), place, 5, torch.float32)
        passed = {id(tensor._base if tensor._base is not None else tensor) for _, ts in guard.calls for tensor in ts}
        return buffers.made, STREAM.jobs, all(id(tensor._base) in passed for tensor in mine)

    assert simulate(2, on_rank) == [([], [], True)] * 2


def test_buffers_are_reused():
    def on_rank():
        buffers = Buffers()
        comm = StagedComm(default_world(), buffers.host)
        counts = []
        for _ in range(4):
            every_call(comm, on_device, 7, torch.float32)
            counts.append(len(buffers.made))
        return counts

    for counts in simulate(3, on_rank):
        assert counts[0] > 0
        assert counts == counts[:1] * 4


def test_sizes_that_change_a_little_have_one_buffer():
    def on_rank():
        buffers = Buffers()
        comm = StagedComm(default_world(), buffers.host)
        for size in (8, 5, 6, 7, 8):
            comm.all_reduce(on_device(torch.ones(size)))
        return [len(buffer) for buffer in buffers.made]

    assert simulate(2, on_rank) == [[8], [8]]


def test_the_tensors_of_a_call_lie_in_a_row_on_the_host():
    def on_rank():
        guard = Guard(default_world(), [])
        comm = StagedComm(guard, Buffers().host)
        parts = [on_device(torch.ones(size)) for size in (3, 0, 2)]
        comm.reduce_scatter(parts, on_device(torch.zeros((3, 0, 2)[comm.rank])))
        places = guard.calls[0][1][:3]
        return base.joined(places).data_ptr() == places[0].data_ptr()

    assert simulate(3, on_rank) == [True] * 3


def test_messages_of_several_types_in_one_exchange():
    def on_rank():
        comm = StagedComm(default_world(), Buffers().host)
        types = {0: torch.int64, 1: torch.float16, 2: torch.float64}
        others = [rank for rank in range(3) if rank != comm.rank]
        got = {rank: on_device(torch.zeros(2, dtype=types[rank])) for rank in others}
        got[others[0]] = torch.zeros(2, dtype=types[others[0]])
        comm.exchange({to: on_device(torch.full((2,), comm.rank + 1, dtype=types[comm.rank])) for to in others}, got)
        return all(torch.equal(read(one), torch.full((2,), rank + 1, dtype=types[rank])) for rank, one in got.items())

    assert simulate(3, on_rank) == [True] * 3


def test_a_sum_under_way_does_not_touch_the_tensor_until_it_is_waited_for():
    def on_rank():
        buffers = Buffers()
        comm = StagedComm(default_world(), buffers.host)
        tensor = on_device(torch.ones(4))
        work = comm.start_all_reduce(tensor)
        comm.barrier()
        before = read(tensor)
        work.wait()
        work.wait()
        assert work.test()
        free = sum(len(free) for free in buffers.host._free.values())
        return before.tolist(), read(tensor).tolist(), free, len(buffers.made)

    assert simulate(2, on_rank) == [([1.0] * 4, [2.0] * 4, 1, 1)] * 2


def test_only_those_who_have_cuda_are_staged(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert simulate(2, lambda: stage(default_world()) is default_world()) == [True, True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def twice():
        once = stage(default_world())
        return isinstance(once, StagedComm) and stage(once) is once

    assert simulate(2, twice) == [True, True]


@pytest.mark.parametrize("check", ["0", "1"])
def test_a_grid_takes_device_tensors(monkeypatch, check):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("AUTOPAR_CHECK", check)
    monkeypatch.setattr(staged, "CUDA", Buffers().host.device)

    def on_rank():
        grid = Grid("a=2,b=2")
        again = Grid("2", grid.axes[0].comm)
        total = all_sum(computed(torch.full((3,), grid.rank + 1.0)), grid.axes[0])
        rows = gather(computed(torch.full((1, 2), again.rank + 1.0)), 0, again.axes[0], 2)
        checked = isinstance(again.comm, WatchedComm)
        return read(total).tolist(), read(rows).tolist(), checked or isinstance(again.comm, StagedComm), checked

    one, two = ([4.0] * 3, [6.0] * 3)
    rest = ([[1.0, 1.0], [2.0, 2.0]], True, check == "1")
    assert simulate(4, on_rank) == [(one, *rest), (two, *rest)] * 2


def test_what_cannot_be_reached_is_told(monkeypatch):
    far = torch.empty(2, device="meta")
    assert CUDA.on_host(torch.empty(2))
    assert not CUDA.on_host(far)
    monkeypatch.setattr(base, "cuda_aware", lambda: False)
    with pytest.raises(AssertionError, match="broadcast: a tensor lies on meta, not in CPU memory"):
        check_tensors("broadcast", [torch.empty(2), far])
    monkeypatch.setattr(base, "cuda_aware", lambda: True)
    check_tensors("broadcast", [torch.empty(2), far])


def gpu_query(answer, error=0):
    def query(kind, supported):
        assert kind == 0
        supported._obj.value = answer
        return error

    return SimpleNamespace(MPIX_GPU_query_support=query)


@pytest.mark.parametrize(
    ("library", "kinds", "aware"),
    [
        (SimpleNamespace(MPIX_Query_cuda_support=lambda: 1), "", True),
        (SimpleNamespace(MPIX_Query_cuda_support=lambda: 0), "mpi,system,cuda", False),
        (gpu_query(1), "", True),
        (gpu_query(0), "", False),
        (gpu_query(1, error=5), "", False),
        (SimpleNamespace(), "mpi,system,cuda:device", True),
        (SimpleNamespace(), "mpi,cuda:host", False),
        (SimpleNamespace(), "", False),
        (ctypes.CDLL(None), "mpi,system", False),
    ],
)
def test_what_mpi_says_of_cuda(library, kinds, aware):
    assert says_cuda(library, kinds) is aware


def on_mpi():
    """Every call over MPI, staged or (the device being made of CPU memory) not; and sums through a node's memory: test_mpi.py."""
    from autopar.runtime.transport.mpi import MpiComm

    world = MpiComm.world()
    assert cuda_aware() in (False, True)
    for dtype in TYPES:
        expected = every_call(world, lambda tensor: tensor, 11, dtype)
        for direct in (False, True):
            found = every_call(StagedComm(world, Buffers().host, direct), on_device, 11, dtype)
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True)), dtype
    large = on_device(torch.full((1 << 19,), world.rank + 1.0))
    StagedComm(world, Buffers().host).all_reduce(large)
    assert torch.equal(read(large), torch.full((1 << 19,), world.size * (world.size + 1) / 2))
    world.free()
