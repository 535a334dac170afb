"""Checked mode on simulated ranks: what fits passes and computes the same, what does not is refused alike on all ranks."""

import itertools

import pytest
import torch
from small_programs import PROGRAMS, describe, make

from autopar.errors import CommError
from autopar.ir.layout import Shard
from autopar.runtime import Grid, Replicate, all_gather, all_sum, all_to_all, batch_norm, copy, gather, reduce_scatter
from autopar.runtime.diagnostics.watched_comm import WatchedComm
from autopar.runtime.primitives.halo import halo
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.transport.threads import ThreadComm, simulate


@pytest.fixture
def checked(monkeypatch):
    monkeypatch.setenv("AUTOPAR_CHECK", "1")


def test_it_is_off_by_default(monkeypatch):
    monkeypatch.delenv("AUTOPAR_CHECK", raising=False)
    assert all(isinstance(one.comm, ThreadComm) for one in simulate(2, lambda: Grid("2").axes[0]))


def everything(cuts):
    """Every primitive with its adjoint, on parts that may be uneven or empty."""
    grid = Grid("3")
    (axis,) = grid.axes
    assert isinstance(axis.comm, WatchedComm) or axis.comm.size == 1
    axis.move(cuts)
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    part = x[axis.bounds(5)[axis.index] : axis.bounds(5)[axis.index + 1]].clone().requires_grad_()
    whole = x.clone().requires_grad_()
    made = [
        gather(part, 0, axis, 5),
        all_gather(part, 0, axis, 5),
        reduce_scatter(copy(whole, axis), 1, axis, blocks=2),
        all_to_all(part, axis, Shard(0), Shard(1), 5),
        all_sum(whole, axis),
        halo(part, 0, axis, 5, [(0, 2), (0, 5), (3, 6)]),
        batch_norm(part, None, None, None, None, over=(axis,)),
    ]
    sum((y * y).sum() for y in made).backward()
    work = axis.comm.start_all_reduce(whole.grad)
    while not work.test():
        pass
    work.wait()
    axis.comm.broadcast(whole.grad, 1)
    counter = axis.comm.counter()
    assert sorted(map(int, map(str, axis.comm.gather_objects(counter.draw())))) == [0, 1, 2]
    counter.free()
    grid.comm.barrier()
    return [*(y.detach() for y in made), part.grad, whole.grad]


@pytest.mark.parametrize("cuts", [None, (0.0, 0.7, 0.7, 1.0)])
def test_what_fits_passes_and_computes_the_same(monkeypatch, cuts):
    monkeypatch.setenv("AUTOPAR_CHECK", "0")
    monkeypatch.setattr("test_watched_comm.WatchedComm", ThreadComm)
    plain = simulate(3, lambda: everything(cuts))
    monkeypatch.undo()
    monkeypatch.setenv("AUTOPAR_CHECK", "1")
    for wanted, got in zip(plain, simulate(3, lambda: everything(cuts)), strict=True):
        for a, b in zip(wanted, got, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", sorted(PROGRAMS))
def test_a_training_step_passes(checked, kind):
    model, inputs = make(kind)

    def step():
        grid = Grid("2x2")
        description = describe(model, inputs(0), grid)
        parallel = Parallel(PROGRAMS[kind](grid), description, model.state_dict().items(), torch.float64, 64)
        losses = []
        for i in range(2):
            loss = parallel(**inputs(i))
            loss.backward()
            losses.append(loss.item())
        return losses

    results = simulate(4, step)
    assert all(result == results[0] for result in results)


def refused(function, ranks=3):
    """The error of a program that is to be refused, which every rank must have raised."""
    errors = []

    def run():
        (axis,) = Grid(str(ranks)).axes
        try:
            function(axis)
        except CommError as error:
            errors.append(str(error))
            raise

    with pytest.raises(CommError) as caught:
        simulate(ranks, run)
    assert str(caught.value) in errors
    return str(caught.value)


def one_rank(axis, this, other):
    return this if axis.index == 1 else other


WRONG = {
    "another primitive": (
        lambda axis: all_sum(torch.ones(2), axis) if axis.index == 1 else gather(torch.ones(2), 0, axis, 6),
        ["axis0: its ranks are in different calls", "- ranks 0, 2: gather at ", "- rank 1: all_sum at "],
    ),
    "another type": (
        lambda axis: all_sum(torch.ones(2, dtype=one_rank(axis, torch.float64, torch.float32)), axis),
        ["axis0: the types differ", "- ranks 0, 2: all_sum at ", ", float32 [2]", "- rank 1: all_sum at ", "float64"],
    ),
    "another shape of the same size": (
        lambda axis: all_sum(torch.ones(one_rank(axis, (3, 2), (2, 3))), axis),
        [
            "all_sum at ",
            " over axis0: the sizes do not fit",
            "- ranks 0, 2: float32 [2, 3]",
            "- rank 1: float32 [3, 2]",
        ],
    ),
    "other rows beside the split dim": (
        lambda axis: gather(torch.ones(2, one_rank(axis, 5, 4)), 0, axis, 6),
        [
            "the sizes do not fit",
            "- rank 0 gives [2, 4] where rank 1 expects [2, 5]",
            "- rank 1 gives [2, 5] where rank 0",
        ],
    ),
    "a longer whole": (
        lambda axis: reduce_scatter(torch.ones(one_rank(axis, 9, 6)), 0, axis),
        ["the sizes do not fit", "- ranks 0, 2: float32 [2], [2], [2]", "- rank 1: float32 [3], [3], [3]"],
    ),
    "other columns in a redistribution": (
        lambda axis: all_to_all(torch.ones(2, one_rank(axis, 9, 6)), axis, Shard(0), Shard(1), 6),
        ["the sizes do not fit", "- rank 1 gives [2, 3] where rank 0 expects [2, 2]"],
    ),
    "other rows from a neighbour": (
        lambda axis: halo(torch.ones(2, one_rank(axis, 5, 4)), 0, axis, 6, [(0, 3), (1, 5), (3, 6)]),
        ["messages over axis0: what is sent is not what is expected", "sends float32 [1, ", "expects float32 [1, "],
    ),
    "a gradient of another shape": (
        lambda axis: axis.comm.start_all_reduce(torch.ones(one_rank(axis, 3, 2))).wait(),
        ["over axis0: the sizes do not fit", "- ranks 0, 2: float32 [2]", "- rank 1: float32 [3]"],
    ),
    "another root": (
        lambda axis: axis.comm.broadcast(torch.ones(2), axis.index % 2),
        ["axis0: its ranks are in different calls", "- ranks 0, 2: broadcast at ", "(from 0)", "(from 1)"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_told(checked, case):
    function, wanted = WRONG[case]
    message = refused(function)
    for text in wanted:
        assert text in message
    assert "\n  rule: " in message
    assert "\n  fix: " in message
    assert "test_watched_comm.py:" in message


def test_the_line_in_forward_is_told_for_a_backward_that_does_not_fit(checked):
    def program(axis):
        x = torch.ones(2, requires_grad=True)
        y = copy(x, axis) if axis.index else gather(x, 0, axis, 6)
        (y.sum() if axis.index else copy(x, axis).sum()).backward()

    def other(axis):
        x = torch.ones(one_rank(axis, 3, 2), requires_grad=True)
        copy(x, axis).sum().backward()

    assert "adjoint of copy at " in refused(other)
    assert "gather at " in refused(program)


def test_axes_are_compared_each_for_itself(checked):
    """Ranks that agree along one axis may differ along the other."""

    def program():
        first, second = Grid("2x2").axes
        x = torch.ones(first.index + 1)
        total = all_sum(x, second)
        return [gather(total, 0, first, 3).tolist() if bounds_fit(first) else None, Replicate()]

    def bounds_fit(axis):
        axis.move((0.0, 1 / 3, 1.0))
        return axis.bounds(3) == (0, 1, 3)

    assert [one[0] for one in simulate(4, program)] == [[2.0, 2.0, 2.0]] * 4


def test_splits_of_splits_keep_the_ranks_names(checked):
    def program():
        outer = Grid("2x3").comm.split(0, 0)
        inner = outer.split(outer.rank % 2, -outer.rank)
        inner.all_reduce(torch.ones(1 + (outer.rank == 4)))

    with pytest.raises(
        CommError, match=r"over ranks 4, 2, 0: the sizes do not fit\n.*\n  - rank 4: .*\n  - ranks 2, 0:"
    ):
        simulate(6, program)


def test_every_order_of_unequal_hashes_is_seen():
    from autopar.runtime.diagnostics.call_fingerprint import alike

    for numbers in itertools.product((0, 1, 3), repeat=3):
        sums = torch.tensor([sum(numbers), sum(n * n for n in numbers)])
        assert alike(sums, 3) == (len(set(numbers)) == 1)


def test_sums_that_differ_are_told_where_ranks_begin_more_of_them_before_they_look(checked):
    """Rank 1 looks at its first sum at once, the others after a second one and after a call over another group."""

    def program():
        first, second = Grid("3x2").axes
        comm = first.comm
        works = [comm.start_all_reduce(torch.ones(one_rank(first, 3, 2)))]
        if first.index == 1:
            assert not any(works[0].test() for _ in range(100))
        works.append(comm.start_all_reduce(torch.ones(4)))
        all_sum(torch.ones(2), second)
        works[-1].wait()

    with pytest.raises(CommError, match=r"(?s)axis0: the sizes do not fit.*rank.* float32 \[2\].*rank.* float32 \[3\]"):
        simulate(6, program)
