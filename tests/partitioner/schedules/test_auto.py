import random

from random_pipelines import random_pipeline

from autopar.errors import ConfigError
from autopar.ir.pipeline.schedule_check import SegmentGraph, ValueEdge, check_schedule
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.simulate import simulate


def proved(problem, lists):
    edges = tuple(ValueEdge("x", edge.source, edge.target, edge.gradient) for edge in problem.edges)
    check_schedule(SegmentGraph(problem.positions, problem.microbatches, problem.position, edges), lists)
    timeline = simulate(problem, lists)
    for position, peak in enumerate(timeline.peak):
        assert peak <= problem.most(position) * (1 + 1e-9)
    return timeline.makespan


def named(problem):
    """The makespans of those named schedules that are defined and fit."""
    for schedule in NAMED.values():
        try:
            timeline = simulate(problem, schedule(problem))
        except ConfigError:
            continue
        if all(peak <= problem.most(position) for position, peak in enumerate(timeline.peak)):
            yield timeline.makespan


def test_never_slower_than_a_named_schedule_on_uneven_pipelines():
    rng = random.Random(0)
    compared = 0
    for number in range(100):
        problem = random_pipeline(rng, rng.randint(2, 6), rng.randint(1, 12), limited=number % 2 == 0)
        found = proved(problem, auto(problem))
        for other in named(problem):
            assert found <= other * (1 + 1e-12)
            compared += 1
    assert compared > 80
