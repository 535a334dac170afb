"""Series and branches, and positions along and beside them."""

import random
from dataclasses import replace

import pytest

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import assign
from autopar.partitioner.placement.branches import Branches, Series, calls_of, decompose, spread
from autopar.partitioner.placement.list_scheduling import critical_path, fewer_segments, phases
from autopar.partitioner.placement.problem import CallWork, PlacementProblem, TensorUse, arrows, neighbours
from benchmarks.placement.random_problems import random_problem


def net(arrows, seconds, positions=2):
    """A graph of calls that take these seconds, with tensors of one byte and links of a tenth of a second for it."""
    tensors = tuple(
        TensorUse(f"t{a}", a, tuple(sorted(b for x, b in arrows if x == a)), 1.0, 1.0)
        for a in sorted({a for a, _ in arrows})
    )
    return PlacementProblem(
        tuple(CallWork(f"c{k}", each, 2 * each) for k, each in enumerate(seconds)),
        tensors,
        (),
        (PositionLimits(),) * positions,
        PositionLinks.uniform(positions, 0.0, 0.1),
    )


INCEPTION = net([(0, 1), (0, 2), (2, 3), (0, 4), (1, 5), (3, 5), (4, 5), (0, 5)], [1, 4, 2, 2, 4, 1])


def test_series_and_branches():
    assert decompose(INCEPTION) == Series((0, Branches((1, Series((2, 3)), 4)), 5))
    assert decompose(net([(0, 1), (1, 2), (0, 2)], [1] * 3)) == Series((0, 1, 2))  # a skip is no branch
    assert decompose(net([(0, 1), (2, 3)], [1] * 4)) == Branches((Series((0, 1)), Series((2, 3))))
    knot = decompose(net([(0, 2), (0, 3), (1, 3)], [1] * 4))
    assert knot == Series((0, 1, 2, 3))


def branches(tree):
    if isinstance(tree, Branches):
        yield tree
    if not isinstance(tree, int):
        for part in tree.parts:
            yield from branches(part)


@pytest.mark.parametrize("seed", range(20))
def test_every_call_once_and_nothing_between_branches(seed):
    problem, _ = random_problem(random.Random(seed), 20)
    tree = decompose(problem)
    order = calls_of(tree)
    assert sorted(order) == list(range(len(problem.calls)))
    assert all(order.index(a) < order.index(b) for a, b in arrows(problem))
    _, after = neighbours(problem)
    for each in branches(tree):
        for part in each.parts:
            others = {call for other in each.parts if other is not part for call in calls_of(other)}
            assert not any(after[call] & others for call in calls_of(part))


def test_branches_go_to_different_positions():
    at = spread(
        replace(INCEPTION, positions=(PositionLimits(),) * 3, links=PositionLinks.uniform(3, 0, 0)),
        decompose(INCEPTION),
    )
    assert at[2] == at[3]
    assert len({at[1], at[2], at[4]}) == 3


def test_a_series_is_spread_by_work_and_speed():
    chain = net([(k, k + 1) for k in range(5)], [1] * 6)
    assert spread(chain, decompose(chain)) == [0, 0, 0, 1, 1, 1]
    faster = replace(chain, positions=(PositionLimits(2.0), PositionLimits(1.0)))
    assert spread(faster, decompose(faster)) == [0, 0, 0, 0, 1, 1]


def test_branches_go_beside_each_other_where_messages_are_cheap():
    at = critical_path(INCEPTION)
    assert {at[1], at[2], at[4]} == {0, 1}
    dear = replace(INCEPTION, links=PositionLinks.uniform(2, 100.0, 0.0))
    assert len(set(critical_path(dear))) == 1


@pytest.mark.parametrize("seed", range(20))
def test_positions_of_calls_become_few_segments(seed):
    rng = random.Random(seed)
    problem, _ = random_problem(rng)
    at = [rng.randrange(len(problem.positions)) for _ in problem.calls]
    assignment = phases(problem, at)
    assert assignment.positions == at
    few = fewer_segments(problem, assignment, 1, lambda each: len(each.position))
    assert max(few.position.count(q) for q in range(len(problem.positions))) == 1
    assert assign(problem, few.segment, few.position) == few
