"""An assignment of calls: its segments, its messages, its memory."""

import random

import pytest

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import (
    Assignment,
    assign,
    cut_bytes,
    edges,
    is_legal,
    parameter_bytes,
    pipeline,
)
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from benchmarks.placement.random_problems import random_problem


def net(tensors, parameters=(), pins=()):
    """Four calls on a fast position with a memory limit and a slow one without."""
    return PlacementProblem(
        tuple(CallWork(f"c{k}", 1.0 + k, 2.0 + k, 1.0, 10.0 + k, 1.0) for k in range(4)),
        tensors,
        parameters,
        (PositionLimits(2.0, 50.0), PositionLimits()),
        PositionLinks.uniform(2, 0.5, 0.1),
        microbatches=3,
        pins=pins,
    )


FAN = net((TensorUse("x", 0, (1, 2, 3), 10.0, 20.0), TensorUse("mask", 1, (3,), 5.0)))


def test_a_segment_that_waits_for_itself_is_none():
    chain = net(tuple(TensorUse(f"t{k}", k, (k + 1,), 1.0, 1.0) for k in range(3)))
    assert assign(chain, [0, 1, 0, 1], [0, 1]) is None
    assert assign(chain, [2, 2, 0, 0], [1, 1, 0]) == Assignment((0, 0, 1, 1), (0, 1))


def test_a_tensor_is_sent_to_a_position_once():
    assignment = assign(FAN, [0, 1, 2, 3], [0, 1, 1, 1])
    by_pair = {(edge.source, edge.target): edge for edge in edges(FAN, assignment)}
    assert by_pair[0, 1].forward == pytest.approx(0.5 + 1.0)
    assert by_pair[0, 1].backward == pytest.approx(0.5 + 2.0)
    assert [(by_pair[0, k].forward, by_pair[0, k].backward, by_pair[0, k].size) for k in (2, 3)] == [(0, 0, 0)] * 2
    assert (by_pair[1, 3].forward, by_pair[1, 3].gradient) == (0, False)  # on one position, and no gradient
    assert cut_bytes(FAN, assignment) == 3 * (10 + 20)


def test_the_pipeline_has_the_work_of_its_calls():
    problem = net(FAN.tensors, (ParameterUse("tied", 7.0, (0, 3), 4.0, 6.0), ParameterUse("own", 2.0, (1,))))
    assignment = assign(problem, [0, 0, 1, 1], [0, 1])
    task = pipeline(problem, assignment)
    assert task.forward == ((1 + 2) / 2, 3 + 4)
    assert task.backward == ((2 + 3) / 2, 4 + 5)
    assert (task.weight, task.kept, task.held) == ((1.0, 2.0), (21.0, 25.0), (2.0, 2.0))
    assert parameter_bytes(problem, assignment) == [9.0, 7.0]
    assert task.limit == (50.0 - 9.0, float("inf"))
    ring = 2 * (0.5 + 4.0 / 2 * 0.1)
    assert task.update == pytest.approx((ring + 3.0, ring + 6.0))


def test_what_is_legal():
    problem = net(FAN.tensors, pins=((3, 1),))
    assert is_legal(problem, assign(problem, [0, 0, 1, 1], [0, 1]), 1)
    assert not is_legal(problem, assign(problem, [0, 0, 1, 1], [1, 0]), 1)  # the pin
    assert not is_legal(problem, assign(problem, [0, 1, 2, 2], [0, 0, 1]), 1)  # two segments
    assert not is_legal(problem, assign(problem, [0, 0, 0, 0], [1]), 1)  # a position without a call


def test_segments_are_numbered_along_their_edges():
    for seed in range(40):
        rng = random.Random(seed)
        problem, _ = random_problem(rng)
        labels = [rng.randrange(4) for _ in problem.calls]
        assignment = assign(problem, labels, [label % len(problem.positions) for label in range(4)])
        pairs = {(labels[t.source], labels[reader]) for t in problem.tensors for reader in t.readers}
        if assignment is not None:
            number = dict(zip(labels, assignment.segment, strict=True))
            assert all(number[a] <= number[b] for a, b in pairs)
            pipeline(problem, assignment)
