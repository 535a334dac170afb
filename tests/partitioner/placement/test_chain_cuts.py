"""Cuts of a chain are the best for the objective that `chain_cuts` states, by trying all."""

import random
from dataclasses import replace
from itertools import combinations

import pytest

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.chain_cuts import CutWay, chain, cut, equal_cut, labels_of
from benchmarks.placement.random_problems import random_problem


def objective(problem, starts, positions, fill, in_flight):
    """The objective as its docstring says it; `inf` where a segment must not be."""
    ends = [*starts[1:], len(problem.calls)]
    worst = 0.0
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        at, calls = positions[k], problem.calls[start:end]
        used = sum(p.size for p in problem.parameters if any(start <= r < end for r in p.readers))
        kept = used + in_flight[k] * sum(call.saved for call in calls)
        if kept > problem.memories[at] or any(at not in ok for ok in problem.allowed[start:end]):
            return float("inf")
        seconds = sum(call.forward + call.backward for call in calls) / problem.speeds[at]
        if k and positions[k - 1] != at:
            alpha, beta = problem.links.alpha[positions[k - 1]][at], problem.links.beta[positions[k - 1]][at]
            cross = [t for t in problem.tensors if t.source < start <= max(t.readers)]
            there = sum(alpha + beta * t.size for t in cross)
            back = sum(alpha + beta * t.gradient for t in cross if t.gradient)
            seconds = max(seconds, there, back)
        before = sum(call.forward + call.backward for call in problem.calls[:start]) / max(problem.speeds)
        worst = max(worst, fill * before + problem.microbatches * seconds)
    return worst


@pytest.mark.parametrize("seed", range(30))
def test_the_best_cut(seed):
    rng = random.Random(seed)
    problem, _ = random_problem(rng, 9)
    count = len(problem.positions)
    positions = [*range(count), *rng.sample(range(count), rng.randint(0, 1))]
    memory = rng.choice((None, 14.0, 20.0))
    problem = replace(
        problem,
        positions=tuple(PositionLimits(each.speed, memory) for each in problem.positions),
        bans=((rng.randrange(len(problem.calls)), 0),) if rng.random() < 0.5 else (),
    )
    fill, in_flight = rng.choice((0.0, 0.5, 1.0)), [rng.randint(1, 2) for _ in positions]
    starts = cut(chain(problem), CutWay(tuple(positions), tuple(in_flight), fill))
    tries = ([0, *rest] for rest in combinations(range(1, len(problem.calls)), len(positions) - 1))
    best = min((objective(problem, each, positions, fill, in_flight) for each in tries), default=float("inf"))
    if starts is None:
        assert best == float("inf")
    else:
        assert objective(problem, starts, positions, fill, in_flight) == pytest.approx(best)


def test_rounds_make_up_for_each_other():
    problem, _ = random_problem(random.Random(0), 12)
    seconds = [4.0, 6.0, 4.0, 3.0, 3.0]
    calls = tuple(replace(problem.calls[0], forward=each, backward=0.0, weight=0.0) for each in seconds)
    links = PositionLinks.uniform(2, 0.0, 0.0)
    problem = replace(problem, calls=calls, tensors=(), parameters=(), positions=(PositionLimits(),) * 2, links=links)
    starts = cut(chain(problem), CutWay((0, 1, 0, 1), (1,) * 4, rounds=2))
    assert starts == [0, 1, 2, 4]  # 4 and 6 seconds, then 7 and 3, not 4 and 6
    tight = replace(problem, positions=(PositionLimits(1.0, 2.9 * calls[0].saved), PositionLimits()))
    assert cut(chain(tight), CutWay((0, 1, 0, 1), (1,) * 4, rounds=2)) == [0, 1, 2, 3]
    tighter = replace(problem, positions=(PositionLimits(1.0, 1.9 * calls[0].saved), PositionLimits()))
    assert cut(chain(tighter), CutWay((0, 1, 0, 1), (1,) * 4, rounds=2)) is None


@pytest.mark.parametrize(
    ("weights", "segments", "starts"),
    [([1.0] * 6, 3, [0, 2, 4]), ([9.0, 1, 1, 1], 3, [0, 1, 2]), ([1.0, 1, 1, 9], 3, [0, 2, 3]), ([1.0, 1], 2, [0, 1])],
)
def test_equal_cut(weights, segments, starts):
    assert equal_cut(weights, segments) == starts
    assert len(set(labels_of(starts, len(weights)))) == segments
