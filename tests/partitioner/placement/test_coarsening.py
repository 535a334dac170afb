"""Blocks can run as a whole, and an assignment of blocks is one of their calls."""

import random
from dataclasses import replace

import pytest

from autopar.partitioner.placement.assignment import assign, cut_bytes, pipeline
from autopar.partitioner.placement.coarsening import blocks_of, expanded, merged
from autopar.partitioner.placement.problem import arrows
from benchmarks.placement.random_problems import random_problem


@pytest.mark.parametrize("seed", range(12))
def test_blocks_and_their_calls_come_to_the_same(seed):
    rng = random.Random(seed)
    problem, _ = random_problem(rng, 24)
    problem = replace(problem, bans=((rng.randrange(len(problem.calls)), 0),))
    blocks = blocks_of(problem, 6)
    small = merged(problem, blocks)
    assert sorted(call for block in blocks for call in block) == list(range(len(problem.calls)))
    assert all(source < reader for source, reader in arrows(small))
    coarse = assign(small, [min(k * 3 // len(blocks), 2) for k in range(len(blocks))], [1, 0, 1])
    fine = expanded(problem, blocks, coarse)
    for name in ("position", "forward", "backward", "weight", "kept", "held", "update"):
        assert getattr(pipeline(problem, fine), name) == pytest.approx(getattr(pipeline(small, coarse), name))
    assert cut_bytes(problem, fine) == pytest.approx(cut_bytes(small, coarse))
    shared = [frozenset.intersection(*(problem.allowed[call] for call in block)) for block in blocks]
    assert list(small.allowed) == shared


def test_blocks_of_a_chain_are_of_about_one_size():
    problem, _ = random_problem(random.Random(3), 24)
    calls = tuple(replace(call, forward=1.0, backward=1.0, weight=0.0) for call in problem.calls)
    chain = tuple(replace(problem.tensors[0], source=k, readers=(k + 1,)) for k in range(len(calls) - 1))
    sizes = [len(block) for block in blocks_of(replace(problem, calls=calls, tensors=chain), 5)]
    assert len(calls) > 10
    assert len(sizes) <= 5
    assert max(sizes) <= 3 * len(calls) / 5
