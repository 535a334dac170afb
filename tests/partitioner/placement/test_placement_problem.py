"""What cannot be placed is refused by name."""

from dataclasses import replace

import pytest

from autopar.errors import ConfigError, InfeasiblePlan
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse, check

CHAIN = PlacementProblem(
    tuple(CallWork(f"h.{k}", 1.0, 2.0, saved=4.0) for k in range(3)),
    (TensorUse("x", 0, (1,), 1.0, 1.0), TensorUse("y", 1, (2,), 1.0, 1.0)),
    (ParameterUse("w", 8.0, (0, 2)),),
    (PositionLimits(), PositionLimits()),
    PositionLinks.uniform(2, 0.0, 0.0),
)


def on(positions, memory=None):
    links = PositionLinks.uniform(positions, 0.0, 0.0)
    return replace(CHAIN, positions=(PositionLimits(1.0, memory),) * positions, links=links)


@pytest.mark.parametrize(
    ("problem", "error", "words"),
    [
        (on(4), ConfigError, ("4 positions for 3 calls", "h.0", "h.2", "3 or fewer positions")),
        (replace(CHAIN, pins=((1, 0), (1, 1))), ConfigError, ("1 calls have no position", "- h.1")),
        (replace(CHAIN, pins=((2, 0),), bans=((2, 0),)), ConfigError, ("- h.2",)),
        (replace(CHAIN, bans=((0, 1), (1, 1), (2, 1))), ConfigError, ("- position 1", "fewer pins")),
        (replace(on(3), pins=((0, 0), (1, 0))), ConfigError, ("1 position stays without a call",)),
        (on(2, 11.0), InfeasiblePlan, ("- h.0: 12 B", "- h.2: 12 B")),
        (on(1, 19.0), InfeasiblePlan, ("20 B on 1 positions with 19 B together",)),
        (replace(CHAIN, microbatches=0), ConfigError, ("0 micro-batches",)),
    ],
)
def test_refused(problem, error, words):
    with pytest.raises(error) as caught:
        check(problem)
    assert not [word for word in words if word not in str(caught.value)]


@pytest.mark.parametrize("problem", [CHAIN, replace(on(4), idle=True), on(3), on(1, 20.0), on(2, 12.0)])
def test_passes(problem):
    check(problem)


def test_ways_back_and_forth_take_segments():
    pinned = replace(CHAIN, pins=((0, 0), (1, 1), (2, 0)))
    check(pinned, 2)
    check(replace(CHAIN, pins=((0, 0), (2, 0))))
    with pytest.raises(ConfigError, match="--segments 2"):
        check(pinned, 1)


def test_many_offenders_are_counted():
    calls = tuple(CallWork(f"h.{k}", 1.0, 1.0) for k in range(40))
    with pytest.raises(ConfigError, match="and 28 more"):
        check(replace(CHAIN, calls=calls, bans=tuple((k, position) for k in range(40) for position in (0, 1))))


def test_a_gradient_that_waits_for_nothing_frees_its_memory_early():
    detached = replace(CHAIN, tensors=(TensorUse("x", 0, (1,), 1.0), TensorUse("y", 1, (2,), 1.0)))
    check(replace(detached, positions=(PositionLimits(1.0, 12.0),), links=PositionLinks.uniform(1, 0.0, 0.0)))
