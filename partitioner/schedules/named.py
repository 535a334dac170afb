"""The schedules that have names in the literature, for the pipelines for which they are defined.

*Stages* are stretches of consecutive segments on one position; segments are numbered in a topological order, so that they form a
chain, and an edge that skips stages asks for nothing that the chain does not give. GPipe (arXiv 1811.06965) is defined for
every pipeline; 1F1B (PipeDream, arXiv 1806.03377) and ZB-H1 (zero bubble, arXiv 2401.10241) where every position has one
stage; the interleaved schedule (Megatron-LM, arXiv 2104.04473) where the stages go round the positions in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from autopar.errors import ConfigError, refusal
from autopar.ir.pipeline.schedule import Action, ActionLists
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive segments on one position."""

    position: int
    segments: tuple[int, ...]

    def forward(self, microbatch: int) -> Iterator[Action]:
        """F of all segments."""
        return (Action("F", segment, microbatch) for segment in self.segments)

    def backward(self, microbatch: int) -> Iterator[Action]:
        """B of all segments."""
        return (Action("B", segment, microbatch) for segment in reversed(self.segments))


def stages(problem: PipelineProblem) -> list[Stage]:
    """The stages of a pipeline in the order of its segments."""
    parts = groupby(range(problem.segments), key=problem.position.__getitem__)
    return [Stage(position, tuple(segments)) for position, segments in parts]


def gpipe(problem: PipelineProblem) -> ActionLists:
    """All forwards, then all backwards: stage by stage, each in the order of the micro-batches."""
    lists: list[list[Action]] = [[] for _ in range(problem.positions)]
    chain, each = stages(problem), range(problem.microbatches)
    for stage in chain:
        lists[stage.position] += [action for m in each for action in stage.forward(m)]
    for stage in reversed(chain):
        lists[stage.position] += [action for m in each for action in stage.backward(m)]
    return tuple(map(tuple, lists))


def one_f_one_b(problem: PipelineProblem) -> ActionLists:
    """One forward, one backward: stage i of p begins with p - i forwards. Raises ConfigError where it is not defined."""
    chain = _one_stage_each(problem, "1f1b")
    lists: list[tuple[Action, ...]] = [()] * problem.positions
    for i, stage in enumerate(chain):
        lists[stage.position] = tuple(
            action
            for kind, m in _alternating(problem.microbatches, len(chain) - i)
            for action in (stage.forward(m) if kind == "F" else stage.backward(m))
        )
    return tuple(lists)


def zero_bubble(problem: PipelineProblem) -> ActionLists:
    """ZB-H1: 1F1B in which stage i defers weight gradients for i micro-batches, and its last ones into the cool-down.

    So every stage holds what the first does, at most p micro-batches from F to W. Raises ConfigError where it is not defined.
    """
    chain, count = _one_stage_each(problem, "zb"), problem.microbatches
    lists: list[tuple[Action, ...]] = [()] * problem.positions
    for i, stage in enumerate(chain):
        actions: list[Action] = []
        for kind, m in _alternating(count, len(chain) - i):
            if kind == "F":
                actions += stage.forward(m)
            else:
                actions += stage.backward(m)
                actions += _weights(problem, stage, range(m - i, m - i + 1) if m >= i else ())
        lists[stage.position] = (*actions, *_weights(problem, stage, range(max(0, count - i), count)))
    return tuple(lists)


def _weights(problem: PipelineProblem, stage: Stage, microbatches: Iterable[int]) -> list[Action]:
    """W of those segments of a stage that have any."""
    deferred = [segment for segment in reversed(stage.segments) if problem.weight[segment] > 0]
    return [Action("W", segment, m) for m in microbatches for segment in deferred]


def interleaved(problem: PipelineProblem) -> ActionLists:
    """1F1B over v stages per position, which takes the micro-batches in groups of p: each through all its stages in turn.

    Position i of p begins with 2 (p - i - 1) + (v - 1) p + 1 forwards. Raises ConfigError where it is not defined.
    """
    chain, count = stages(problem), problem.microbatches
    ring = _ring(chain)
    rounds = max(1, count // len(ring))
    groups = [range(-(-count * r // rounds), -(-count * (r + 1) // rounds)) for r in range(rounds)]
    lists: list[tuple[Action, ...]] = [()] * problem.positions
    for i, position in enumerate(ring):
        own = chain[i :: len(ring)]
        forward = [(stage, m) for group in groups for stage in own for m in group]
        backward = [(stage, m) for group in groups for stage in reversed(own) for m in group]
        first = 2 * (len(ring) - i - 1) + (len(own) - 1) * len(groups[0]) + 1 if len(own) > 1 else len(ring) - i
        lists[position] = tuple(
            action
            for kind, k in _alternating(len(forward), first)
            for action in (
                forward[k][0].forward(forward[k][1]) if kind == "F" else backward[k][0].backward(backward[k][1])
            )
        )
    return tuple(lists)


def _alternating(count: int, first: int) -> Iterator[tuple[str, int]]:
    """`first` forwards, then a backward and a forward in turn, then what is left of the backwards."""
    for k in range(min(first, count)):
        yield "F", k
    for k in range(count):
        yield "B", k
        if first + k < count:
            yield "F", first + k


def _one_stage_each(problem: PipelineProblem, name: str) -> list[Stage]:
    chain = stages(problem)
    places = [stage.position for stage in chain]
    offenders = [f"position {p} has {places.count(p)} stages" for p in sorted(set(places)) if places.count(p) > 1]
    if offenders:
        rule = "it is defined where every position has one stretch of consecutive segments"
        raise _undefined(
            name, rule, offenders, "--schedule auto, or interleaved where the segments go round the positions"
        )
    return chain


def _ring(chain: list[Stage]) -> list[int]:
    """The order in which stages go round the positions."""
    ring = list(dict.fromkeys(stage.position for stage in chain))
    offenders = [
        f"stage {k} (segment {chain[k].segments[0]}) is on position {chain[k].position}, not {ring[k % len(ring)]}"
        for k in range(len(chain))
        if chain[k].position != ring[k % len(ring)]
    ]
    if len(chain) % len(ring):
        offenders.append(f"{len(chain)} stages on {len(ring)} positions")
    if offenders:
        rule = "it is defined where the segments, in topological order, go round the positions in one order"
        raise _undefined("interleaved", rule, offenders, "--schedule auto")
    return ring


def _undefined(name: str, rule: str, offenders: list[str], fix: str) -> ConfigError:
    return ConfigError(refusal("schedule", f"{name} for these segments", rule, offenders, f"use {fix}"))


NAMED: dict[str, Callable[[PipelineProblem], ActionLists]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb": zero_bubble,
}
"""The schedules by the names that `--schedule` takes."""
