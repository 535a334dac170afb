"""Every primitive on partitions: the adjoint identity, and values against the definition on whole tensors."""

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autopar.errors import ConfigError, ProgramMismatch
from autopar.runtime import (
    Partition,
    all_sum_reduce,
    broadcast,
    default_world,
    gather_to,
    nothing,
    repartition,
    scatter,
    send_receive,
    simulate,
    sum_reduce,
)
from autopar.runtime.partitions.partition import copy_groups
from autopar.runtime.verification.partition_cases import PARTITION_FAMILY, case_error, draw_case, live

CASES = st.tuples(st.sampled_from(sorted(PARTITION_FAMILY)), st.integers(1, 8), st.integers(0, 2**32))


def drawn(name, ranks, seed):
    return draw_case(name, random.Random(seed), ranks)


@settings(deadline=None, max_examples=60)
@given(case=CASES)
def test_adjoint(case):
    name, ranks, seed = case
    plain = drawn(name, ranks, seed)
    errors = simulate(ranks, lambda: case_error(plain, default_world()))
    assert max(errors) <= 1e-12


def whole_of(plain, xs, source, target):
    """The results on every rank, by the definition: `xs` is every rank's operand, a dict of rank to result comes back."""
    if plain.name == "send_receive":
        return {to: xs[origin] for origin, to in zip(source.ranks, target.ranks, strict=True)}
    if plain.name == "broadcast":
        number = copy_groups(source, target).number
        return {rank: xs[source.ranks[i]] for rank, i in zip(target.ranks, number, strict=True)}
    if plain.name == "sum_reduce":
        number = copy_groups(target, source).number
        return {
            rank: sum(xs[origin] for origin, j in zip(source.ranks, number, strict=True) if j == i)
            for i, rank in enumerate(target.ranks)
        }
    if plain.name == "all_sum_reduce":
        array = torch.tensor(source.ranks).reshape(source.shape)
        out = {}
        for index in torch.cartesian_prod(*map(torch.arange, source.shape)).reshape(-1, len(source.shape)).tolist():
            summed = array[tuple(slice(None) if dim in plain.dims else i for dim, i in enumerate(index))]
            out[array[tuple(index)].item()] = sum(xs[rank] for rank in summed.flatten().tolist())
        return out
    parts = (1,) * len(plain.before) if source.size == 1 else source.shape
    whole = torch.full([cuts[-1] for cuts in plain.before], torch.nan, dtype=xs[0].dtype)
    for rank, index in zip(source.ranks, indices(parts), strict=True):
        whole[box(plain.before, index)] = xs[rank]
    parts = (1,) * whole.dim() if target.size == 1 else target.shape
    bounds = plain.bounds or [
        torch.tensor([0] + [n // p + (i < n % p) for i in range(p)]).cumsum(0).tolist()
        for n, p in zip(whole.shape, parts, strict=True)
    ]
    return {rank: whole[box(bounds, index)] for rank, index in zip(target.ranks, indices(parts), strict=True)}


def indices(shape):
    return torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist()


def box(bounds, index):
    return tuple(slice(cuts[i], cuts[i + 1]) for cuts, i in zip(bounds, index, strict=True))


def run(plain, ranks):
    """Every rank's operand, result and partitions; the operands are small whole numbers, so that sums are exact."""

    def rank_main():
        comm = default_world()
        with live(plain, comm) as here:
            generator = torch.Generator().manual_seed(comm.rank)
            x = torch.randint(-9, 9, here.shape, generator=generator).double()
            given, y = x.clone(), here.function(x)
            found = y.clone()
            if y is not x:  # as a repartition onto itself is
                y.fill_(77)
            assert torch.equal(x, given), "the operand was modified, or shares its memory with the result"
            return x, found, here.source, here.target

    return simulate(ranks, rank_main)


@settings(deadline=None, max_examples=60)
@given(case=CASES)
def test_values(case):
    name, ranks, seed = case
    plain = drawn(name, ranks, seed)
    results = run(plain, ranks)
    xs = [x for x, *_ in results]
    wanted = whole_of(plain, xs, *results[0][2:])
    for rank, (_, y, *_) in enumerate(results):
        expected = wanted.get(rank, torch.empty(0, dtype=torch.float64))
        assert y.shape == expected.shape
        assert torch.equal(y, expected)


@pytest.mark.parametrize("name", sorted(PARTITION_FAMILY))
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32))
@example(seed=1788)
def test_backward_reaches_every_rank_whoever_needs_it(name, seed):
    """One rank alone has a parameter; all ranks' results then lead backward, and nobody waits in vain."""
    plain = drawn(name, 5, seed)

    def rank_main():
        comm = default_world()
        with live(plain, comm) as here:
            x = torch.ones(here.shape, requires_grad=comm.rank == plain.source[1][0])
            y = here.function(x)
            assert y.requires_grad
            y.sum().backward()
            with torch.no_grad():
                again = here.function(x)
            assert again is x or not again.requires_grad  # where nothing moves, x itself is returned
            return (x.grad is not None) == x.requires_grad

    assert all(simulate(5, rank_main))


def test_nothing_leads_backward_with_zeros():
    x, w = torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)
    y = nothing(x, w)
    assert y.shape == nothing().shape == (0,)
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))
    assert torch.equal(w.grad, torch.zeros(4))
    table = torch.ones(3, 2, requires_grad=True)
    nothing(torch.tensor([0, 2]), table).sum().backward()  # of an embedding
    assert torch.equal(table.grad, torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int32, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("name", sorted(PARTITION_FAMILY))
def test_types(name, dtype):
    """Outside the source ranks bring what they like, of any type: the result has the type of what counts."""
    plain = drawn(name, 6, 3)

    def rank_main():
        with live(plain, default_world()) as here:
            x = torch.ones(here.shape, dtype=dtype) if here.source.active else torch.ones(2, 2, dtype=torch.float64)
            y = here.function(x)
            assert not y.requires_grad
            return y.dtype

    assert simulate(6, rank_main) == [dtype] * 6


@pytest.mark.parametrize("name", sorted({*PARTITION_FAMILY} - {"all_sum_reduce"}))
def test_results_lie_where_operands_do(name):
    """On a device without memory, which is all that one rank needs where nothing is summed or sent."""

    def rank_main():
        with live(drawn(name, 1, 2), default_world()) as here:
            x = torch.ones(here.shape, device="meta", requires_grad=True)
            y = here.function(x)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            return y.device.type, dx.device.type, nothing(x, y).device.type

    assert simulate(1, rank_main) == [("meta", "meta", "meta")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_summed_in_float32(dtype):
    """1 and five times eps/8: lost addend by addend in 16 bits, and 1 + eps where the sum is rounded once."""
    eps = torch.finfo(dtype).eps
    wanted = 1 + eps

    def rank_main():
        comm = default_world()
        one, six = Partition(comm, (1,)), Partition(comm, (6,))

        x = torch.full((3,), 1.0 if comm.rank == 0 else eps / 8, dtype=dtype)
        w = torch.zeros(3, dtype=dtype, requires_grad=True)
        (broadcast(w, one, six) * x).sum().backward()
        return sum_reduce(x, six, one).tolist(), all_sum_reduce(x, six, [0]).tolist(), w.grad.tolist()

    results = simulate(6, rank_main)
    assert results[0] == ([wanted] * 3,) * 3
    assert all(rest == ([], [wanted] * 3, [0.0] * 3) for rest in results[1:])


def refused(ranks, function, error, *words):
    """All ranks refuse alike, and say every word."""

    def rank_main():
        with pytest.raises(error) as caught:
            function(default_world())
        return str(caught.value)

    messages = simulate(ranks, rank_main)
    assert len(set(messages)) == 1
    for word in words:
        assert word in messages[0]


def test_mistakes_are_one_error_on_all_ranks():
    def one_shape_short(comm):
        three = Partition(comm, (3,))
        sum_reduce(torch.ones(2 + (comm.rank == 1)), three, Partition(comm, (1,)))

    def two_types(comm):
        x = torch.ones(2, dtype=torch.float64 if comm.rank else torch.float32)
        repartition(x, Partition(comm, (3,)), Partition(comm, (1,)))

    def no_tensor(comm):
        gather_to(torch.ones(1 + comm.rank // 2, 2 - comm.rank // 3), Partition(comm, (2, 2)), Partition(comm, (1,)))

    def half_recorded(comm):
        with torch.set_grad_enabled(comm.rank == 0):
            broadcast(torch.ones(1, requires_grad=True), Partition(comm, (1,)), Partition(comm, (3,)))

    refused(3, one_shape_short, ProgramMismatch, "sum_reduce", "rank 1 brings shape (3,)", "rank 2 brings shape (2,)")
    refused(3, two_types, ProgramMismatch, "repartition", "rank 0 brings torch.float32")
    refused(4, no_tensor, ProgramMismatch, "gather_to", "rank 3 brings shape (2, 1)")
    refused(3, half_recorded, ProgramMismatch, "rank 2 runs without gradients")
    refused(2, lambda c: scatter(torch.ones(4), Partition(c, (2,)), Partition(c, (2,))), ConfigError, "scatter")
    refused(
        4,
        lambda c: send_receive(torch.ones(1), Partition(c, (2, 2)), Partition(c, (4,))),
        ConfigError,
        "one to one",
    )
    refused(
        2,
        lambda c: repartition(torch.ones(3, 3), Partition(c, (1,)), Partition(c, (2,))),
        ProgramMismatch,
        "3, 3",
        "2 dims",
    )


def test_repartition_onto_itself_sends_nothing():
    def rank_main():
        comm = default_world()
        two = Partition(comm, (2, 1))
        comm.exchange = None  # any call would fail
        x = torch.ones(2 - comm.rank, 3)
        y = repartition(x, two, two)
        z = repartition(x, two, two, [(0, 2, 3), (0, 3)])
        return y is x and z is x

    assert simulate(2, rank_main) == [True, True]


def test_only_ranks_whose_boxes_meet_exchange_messages():
    """A boundary moves by a row: one rank sends it to its neighbour, and in backward the neighbour sends back."""

    def rank_main():
        comm = default_world()
        seen = []
        exchange = comm.exchange

        def spy(sends, recvs):
            seen.append((sorted(sends), sorted(recvs)))
            exchange(sends, recvs)

        comm.exchange = spy
        four = Partition(comm, (4,))
        x = torch.full((2,), float(comm.rank), requires_grad=True)
        repartition(x, four, four, [(0, 1, 4, 6, 8)]).sum().backward()
        return seen

    none = [([], []), ([], [])]
    assert simulate(4, rank_main) == [[([1], []), ([], [1])], [([], [0]), ([0], [])], none, none]
