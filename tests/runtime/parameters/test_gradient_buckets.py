"""Bucketed sums of gradients: right whatever order backward goes in on each rank, and for unused parameters."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autopar.ir.layout import Copied, Replicate, Shard
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.gradient_buckets import GradientSums

WHOLE = (Copied(), Copied())


class Probe:
    """Five parameters, used in an order and number that a test chooses."""

    def __init__(self, grid, layouts, dtypes, bucket_bytes):
        self.grid = grid
        shapes = [(3,), (2, 2), (), (0, 4), (5,)]
        pairs = zip(shapes, dtypes, strict=True)
        self.parameters = {f"p{i}": nn.Parameter(torch.ones(s, dtype=d)) for i, (s, d) in enumerate(pairs)}
        self.layouts = dict(zip(self.parameters, layouts, strict=True))
        self.sums = GradientSums(grid, self.parameters, self.layouts, bucket_bytes)

    def backward(self, uses, weight):
        """The gradient of parameter i on this rank is (rank + 1) * weight * the number of its uses * (i + 1)."""
        loss = torch.zeros((), dtype=torch.float64, requires_grad=True) * 0
        for i in uses:
            one = self.parameters[f"p{i}"]
            loss = loss + (one.double() * ((self.grid.rank + 1) * weight * (i + 1))).sum()
        self.sums.attach(loss).backward()

    def expected(self, i, uses, weight):
        """The sum over the ranks that agree on the axes over which it is not copied."""
        total = 0
        for rank in range(self.grid.size):
            position = divmod(rank, self.grid.shape.sizes[1])
            others = [
                at for at, one in zip(position, self.layouts[f"p{i}"], strict=True) if not isinstance(one, Copied)
            ]
            here = zip(self.grid.position, self.layouts[f"p{i}"], strict=True)
            if others == [at for at, one in here if not isinstance(one, Copied)]:
                total += (rank + 1) * weight * uses.count(i) * (i + 1)
        return float(total)


LAYOUTS = st.tuples(*[st.sampled_from([Copied(), Copied(), Replicate(), Shard(0)])] * 2)
USES = st.tuples(st.permutations([0, 1, 2, 3, 4, 1, 0]), st.integers(0, 7)).map(lambda pair: pair[0][: pair[1]])
DTYPES = st.sampled_from([torch.float64, torch.float32])


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[LAYOUTS] * 5),
    st.tuples(*[DTYPES] * 5),
    st.sampled_from([1, 20, 60, 1 << 20]),
    st.lists(st.tuples(USES, st.booleans()), min_size=1, max_size=4),
    st.booleans(),
)
def test_sums_over_the_copied_axes(layouts, dtypes, bucket_bytes, passes, different_orders):
    """Several backward passes, of which some leave their sums to a later one; the last never does."""
    rounds = [uses for uses, _ in passes]
    held = [later for _, later in passes[:-1]] + [False]

    def rank():
        grid = Grid("2x2")
        probe = Probe(grid, layouts, dtypes, bucket_bytes)
        for number, uses in enumerate(rounds):
            turned = uses[grid.rank % max(len(uses), 1) :] + uses[: grid.rank % max(len(uses), 1)]
            with probe.sums.accumulate() if held[number] else nullcontext():
                probe.backward(turned if different_orders else uses, number + 1)
        for i, one in enumerate(probe.parameters.values()):
            if not any(i in uses for uses in rounds):
                assert one.grad is None
            else:
                total = sum(probe.expected(i, uses, number + 1) for number, uses in enumerate(rounds))
                assert torch.equal(one.grad, torch.full_like(one, total)), (i, one.grad, total)

    simulate(4, rank)


def test_a_parameter_that_only_some_ranks_use():
    def rank():
        probe = Probe(Grid("2x1"), [WHOLE] * 5, [torch.float64] * 5, 64)
        probe.backward([0] if probe.grid.rank == 0 else [1], 1)
        grads = [one.grad for one in probe.parameters.values()]
        assert grads[0].tolist() == [1.0] * 3
        assert grads[1].tolist() == [[4.0] * 2] * 2
        assert grads[2:] == [None] * 3

    simulate(2, rank)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_cleared_before_their_sum_are_forgotten(to_none):
    """Those from before the passes that leave their sums to later ones, too."""

    def rank():
        probe = Probe(Grid("2x1"), [WHOLE] * 5, [torch.float64] * 5, 64)
        probe.backward([0, 1], 5)
        with probe.sums.accumulate():
            probe.backward([0], 7)
        torch.optim.SGD(probe.parameters.values(), lr=1.0).zero_grad(set_to_none=to_none)
        probe.backward([0, 1], 1)
        assert probe.parameters["p0"].grad.tolist() == [3.0] * 3
        assert probe.parameters["p1"].grad.tolist() == [[6.0] * 2] * 2

    simulate(2, rank)


def test_buckets_are_filled_in_reverse_order_and_not_beyond_their_size():
    def rank():
        probe = Probe(Grid("2x1"), [WHOLE] * 5, [torch.float64] * 5, 48)
        number = {one: i for i, one in enumerate(probe.parameters.values())}
        numbers = [sorted(number[one] for one in bucket.members) for bucket in probe.sums._buckets]
        assert numbers == [[2, 3, 4], [1], [0]]
        assert probe.sums.bytes == [8 * (6 + 3), 8 * (4 + 1), 8 * (3 + 1)]
        probe.sums.free()

    simulate(2, rank)


def test_sums_start_while_backward_runs():
    events = []

    def rank():
        grid = Grid("1x2")
        layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3)).double()
        parameters = dict(layers.named_parameters())
        sums = GradientSums(grid, parameters, dict.fromkeys(parameters, WHOLE), 1)
        x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
        start = sums._start_next

        def note(event):
            if grid.rank == 0:
                events.append(event)

        def noted():
            note("start")
            start()

        sums._start_next = noted
        x.register_hook(lambda grad: note("input"))
        y = x
        for layer in layers:
            y = layer(y)
        sums.attach(y.sum()).backward()

    simulate(2, rank)
    assert events.count("start") == 3
    assert events.index("input") >= 2


def test_backward_not_from_the_loss_is_left_alone():
    def rank():
        probe = Probe(Grid("2x1"), [WHOLE] * 5, [torch.float64] * 5, 64)
        (probe.parameters["p0"].sum() * (probe.grid.rank + 1)).backward()
        assert probe.parameters["p0"].grad.tolist() == [probe.grid.rank + 1.0] * 3

    simulate(2, rank)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    def rank():
        probe = Probe(Grid("2x1"), [WHOLE] * 5, [dtype] * 5, 64)
        probe.backward([0, 0], 0.5)
        assert probe.parameters["p0"].grad.tolist() == [3.0] * 3
        assert probe.parameters["p0"].grad.dtype == dtype

    simulate(2, rank)
