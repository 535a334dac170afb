"""Buckets are those of the runtime, and cost what a sum of their bytes does."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autopar.costmodel import gradient_buckets
from autopar.costmodel.gradient_buckets import Gradient, SumBucket
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Replicate
from autopar.ir.machine import load
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.gradient_buckets import GradientSums

LAYOUTS = [(Copied(), Copied()), (Copied(), Replicate()), (Replicate(), Copied()), (Replicate(), Replicate())]
ONE = st.tuples(st.integers(0, 40), st.sampled_from(LAYOUTS), st.sampled_from([torch.float32, torch.float64]))


@settings(max_examples=25, deadline=None)
@given(st.lists(ONE, min_size=1, max_size=8), st.sampled_from([1, 100, 300, 1 << 20]))
def test_buckets_are_those_of_the_runtime(drawn, limit):
    def program():
        grid = Grid("2x2")
        parameters = {f"p{i}": nn.Parameter(torch.zeros(n, dtype=dtype)) for i, (n, _, dtype) in enumerate(drawn)}
        sums = GradientSums(grid, parameters, {f"p{i}": one[1] for i, one in enumerate(drawn)}, limit)
        return sums.bytes

    gradients = [
        Gradient(
            f"p{i}",
            tuple(axis for axis, one in enumerate(layouts) if isinstance(one, Copied)),
            str(dtype).removeprefix("torch."),
            n * dtype.itemsize,
            len(drawn) - i,
        )
        for i, (n, layouts, dtype) in enumerate(drawn)
    ]
    found = gradient_buckets.fill(gradients, limit)
    assert simulate(4, program)[0] == [one.nbytes for one in found]
    assert [one.done for one in found] == sorted(one.done for one in found)
    assert all(one.done >= max(len(drawn) - int(name[1:]) for name in one.members) for one in found)


@pytest.mark.parametrize(("overlap", "grid"), [(0.0, "4"), (1.0, "4"), (0.25, "4x2")])
def test_the_machine_says_which_share_hides(overlap, grid):
    machine = dataclasses.replace(load("knl"), overlap=overlap)
    bucket = SumBucket((0,), 1 << 22, ("p",), 0)
    whole = dataclasses.replace(machine, overlap=0.0)
    total, nothing = gradient_buckets.seconds(bucket, GridShape.parse(grid), whole)
    here, hidden = gradient_buckets.seconds(bucket, GridShape.parse(grid), machine)
    assert nothing == 0.0
    filled = 3 * machine.launch_floor  # one gradient: accumulated, handed to a hook, copied
    assert (here - filled, hidden) == pytest.approx(((total - filled) * (1 - overlap), (total - filled) * overlap))
    assert total > 2 * 0.75 * (1 << 22) / machine.inter.beta
