"""A candidate's compute by what cuts it (`autopar.costmodel.work_shares`), in seconds of a rank of speed 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autopar.costmodel import compute, work_shares
from autopar.costmodel.rank_views import alike
from autopar.ir.plan import WorkPlan
from autopar.planning.candidate import Candidate, call_plans


def step_work(candidate: Candidate, segments: Mapping[str, int], optimizer: str) -> tuple[WorkPlan, ...]:
    """What a rank computes in a step, by what cuts it; of a divided graph by segments, updates with their first readers."""
    built, nodes = candidate.built, candidate.parts.nodes
    if not alike(built.machine, built.grid):
        built = replace(built, grid=built.grid.balanced, machine=replace(built.machine, ranks=()))
        nodes = call_plans(built, candidate.decision)
    grid, machine, graph = built.grid, built.machine, built.graph
    works = []
    for node in nodes:
        rule, strategy = built.calls[node.name].rule, candidate.decision.strategies[node.name]
        seconds = node.seconds_forward, node.seconds_backward
        parts = work_shares.call_work(rule, strategy, seconds, built.rounds, grid, machine)
        works += [(segments.get(node.name, 0), part) for part in parts]
    readers = graph.consumers()
    for item in graph.parameters:
        value, stored = graph.values[item.value], candidate.decision.storage[item.value]
        update = compute.parameter_seconds(value, item.kind, stored, optimizer, grid, machine)[1]
        first = min((segments.get(reader.name, 0) for reader in readers[item.value]), default=0)
        works.append((first, work_shares.update_work(value.shape, stored, update, grid)))
    return tuple(WorkPlan(cuts, seconds, segment) for segment, cuts, seconds in work_shares.summed(works))
