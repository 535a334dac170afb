"""The memory operators as matrices, and the primitives on partitions as the chains of them that their files derive."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_operators import (
    Add,
    Allocate,
    Chain,
    Clear,
    Deallocate,
    copy,
    matrix,
    move,
)

from autopar.runtime import simulate
from autopar.runtime.partitions.partition import Decomposition, copy_groups
from autopar.runtime.transport.world import default_world
from autopar.runtime.verification.partition_cases import PARTITION_FAMILY, draw_case, live

I, O = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)  # noqa: E741
A, B = (0, 1), (2, 3)


def blocks(*rows):
    return torch.cat([torch.cat(row, 1) for row in rows])


@pytest.mark.parametrize(
    ("operator", "size", "wanted", "adjoint"),
    [
        (Allocate(B), 2, blocks([I], [O]), blocks([I, O])),
        (Allocate(A), 2, blocks([O], [I]), blocks([O, I])),
        (Deallocate(B), 4, blocks([I, O]), blocks([I], [O])),
        (Clear(B), 4, blocks([I, O], [O, O]), blocks([I, O], [O, O])),
        (Add(A, B), 4, blocks([I, O], [I, I]), blocks([I, I], [O, I])),
        (copy(A, B), 4, blocks([I, O], [I, O]), blocks([I, I], [O, O])),
        (Chain((copy(A, B), Allocate(B))), 2, blocks([I], [I]), blocks([I, I])),
        (move(A, B), 4, blocks([O, O], [I, O]), blocks([O, I], [O, O])),
        (Chain((Deallocate(A), Add(A, B), Allocate(B))), 2, I, I),
    ],
)
def test_matrices_of_the_paper(operator, size, wanted, adjoint):
    assert torch.equal(matrix(operator, size), wanted)
    assert torch.equal(matrix(operator.adjoint, len(wanted)), adjoint)
    assert torch.equal(matrix(operator.adjoint.adjoint, size), wanted)


def test_the_adjoint_of_a_copy_adds_and_clears():
    assert copy(A, B).adjoint == Chain((Clear(B), Add(B, A)))
    assert move(A, B).adjoint == move(B, A)


@st.composite
def operators(draw, size=6):
    a, b = (tuple(part) for part in torch.tensor(draw(st.permutations(range(size)))).split(size // 2)[:2])
    a, b = (tuple(int(i) for i in part) for part in (a, b))
    return draw(st.sampled_from([Clear(a), Add(a, b), copy(a, b), move(a, b)]))


@given(factors=st.lists(operators(), max_size=5))
def test_chains_multiply_and_their_adjoints_are_transposes(factors):
    product = torch.eye(6, dtype=torch.float64)
    for factor in factors:
        product = product @ matrix(factor, 6)
    chain = Chain(tuple(factors))
    assert torch.equal(matrix(chain, 6), product)
    assert torch.equal(matrix(chain.adjoint, 6), product.T)


def derivation(case, source, target, sizes):
    """The chain of memory operators for a primitive. Entries: every rank's operand, then every rank's result."""
    ranks = range(len(sizes[0]))
    starts = torch.tensor([0, *sizes[0], *sizes[1]]).cumsum(0).tolist()
    x = [tuple(range(starts[i], starts[i + 1])) for i in ranks]
    y = [tuple(range(starts[i], starts[i + 1])) for i in range(len(x), 2 * len(x))]
    xs, ys = (tuple(entry for part in parts for entry in part) for parts in (x, y))
    if case.name == "send_receive":
        steps = [copy(x[a], y[b]) for a, b in zip(source.ranks, target.ranks, strict=True)]
    elif case.name == "broadcast":
        number = copy_groups(source, target).number
        steps = [copy(x[source.ranks[i]], y[b]) for b, i in zip(target.ranks, number, strict=True)]
    elif case.name == "sum_reduce":
        number = copy_groups(target, source).number
        steps = [Add(x[a], y[target.ranks[i]]) for a, i in zip(source.ranks, number, strict=True)]
    elif case.name == "all_sum_reduce":
        array = torch.tensor(source.ranks).reshape(source.shape)
        rest = [dim for dim in range(array.dim()) if dim not in case.dims]
        width = math.prod(array.shape[dim] for dim in case.dims)
        together = array.permute(*rest, *case.dims).reshape(-1, width)
        steps = []
        for group in together.tolist():  # B R, of which R is applied first
            steps += [copy(y[group[0]], y[b]) for b in group[1:]] + [Add(x[a], y[group[0]]) for a in group]
    else:
        steps = [move((a,), (b,)) for a, b in moves(case, source, target, x, y)]
    return Chain((Deallocate(xs), *steps, Allocate(ys)))


def moves(case, source, target, x, y):
    """Which entry of the operand goes to which of the result: those that hold the same entry of the whole tensor."""
    one = (1,) * len(case.before)
    before = Decomposition(source.ranks, one if source.size == 1 else source.shape, case.before)
    after = target.cut(before.shape, case.bounds)
    numbered = torch.arange(torch.Size(before.shape).numel()).reshape(before.shape)
    where = [{}, {}]
    for cut, entries, places in ((before, x, where[0]), (after, y, where[1])):
        for rank in cut.ranks:
            here = numbered[tuple(slice(low, high) for low, high in cut.box(rank))].flatten().tolist()
            places.update(zip(here, entries[rank], strict=True))
    return [(where[0][i], where[1][i]) for i in range(numbered.numel())]


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(sorted(PARTITION_FAMILY)), ranks=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_primitives_are_their_derivations(name, ranks, seed):
    """The matrix of a primitive over the memory of all ranks, and that of its backward, are those of the chain."""
    case = draw_case(name, random.Random(seed), ranks)

    def rank_main():
        comm = default_world()
        with live(case, comm) as here:
            x = torch.zeros(here.shape, dtype=torch.float64, requires_grad=True)
            y = here.function(x)
            sizes = list(zip(*comm.gather_objects([x.numel(), y.numel()]), strict=True))
            forward = [here.function(mine).flatten() for mine in units(sizes[0], comm.rank, x.shape)]
            grads = [torch.autograd.grad(y, x, dy, retain_graph=True) for dy in units(sizes[1], comm.rank, y.shape)]
            back = [dx.flatten() for (dx,) in grads]
            return torch.stack([y.detach().flatten(), *forward])[1:], back, sizes, here

    results = simulate(ranks, rank_main)
    sizes, here = results[0][2:]
    chain = derivation(case, here.source, here.target, sizes)
    n, m = map(sum, sizes)
    wanted = matrix(chain, n) if n else torch.zeros(m, 0, dtype=torch.float64)
    forward = torch.cat([rows for rows, *_ in results], 1).T
    assert torch.equal(forward, wanted)
    backward = [torch.cat([back[i] for _, back, *_ in results]) for i in range(m)]
    if m:
        assert torch.equal(torch.stack(backward, 1), wanted.T)
        assert torch.equal(matrix(chain.adjoint, m), wanted.T)


def units(sizes, rank, shape):
    """This rank's parts of the unit vectors of the memory of all ranks."""
    start = sum(sizes[:rank])
    for i in range(sum(sizes)):
        unit = torch.zeros(sizes[rank], dtype=torch.float64)
        if start <= i < start + sizes[rank]:
            unit[i - start] = 1
        yield unit.reshape(shape)
