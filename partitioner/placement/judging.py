"""How good an assignment is: by its lower bound while thousands are compared, by simulating a schedule for the best few.

The estimate is what no schedule of the assignment beats, and more where memory is short (`pipeline_estimate`) or a position is left
without a call: such an assignment counts as worse than any that is sound, the more so the more it misses, so that a search which
begins with it finds its way out.
"""

from __future__ import annotations

from autopar.errors import AutoparError, InfeasiblePlan
from autopar.partitioner.placement.assignment import Assignment, pipeline
from autopar.partitioner.placement.bounds import pipeline_estimate
from autopar.partitioner.placement.problem import PlacementProblem
from autopar.partitioner.problem import ROUNDING
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.lower_bound import lower_bound
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem
from autopar.partitioner.schedules.simulate import Timeline, simulate

_BAD = 1e3
_FEW = 400  # micro-batches of segments up to which bounds are worked out before schedules


def estimate(problem: PlacementProblem, assignment: Assignment) -> float:
    """Seconds that a schedule of this assignment takes at least; far more where it cannot be."""
    task = pipeline(problem, assignment)
    seconds = pipeline_estimate(task)
    missed = 0.0 if problem.idle else float(len(problem.positions) - len(set(assignment.position)))
    if task.limit is not None:
        missed += _missing_memory(problem, task)
    return seconds + missed * _BAD * (1.0 + seconds)


def _missing_memory(problem: PlacementProblem, task: PipelineProblem) -> float:
    """What one micro-batch in flight needs beyond the limits, as a share of these."""
    assert task.limit is not None
    kept = [0.0] * task.positions
    for position, size in zip(task.position, task.kept, strict=True):
        kept[position] += size
    over = (
        (need - room) / memory
        for need, room, memory in zip(kept, task.limit, problem.memories, strict=True)
        if need > room
    )
    return sum(over, 0.0)


class Judge:
    """Simulated makespans of assignments under one schedule, each worked out once."""

    def __init__(self, problem: PlacementProblem, schedule: str) -> None:
        self.problem, self.schedule = problem, schedule
        self.timelines: dict[Assignment, Timeline | None] = {}
        self.refused: AutoparError | None = None
        self.simulated = self.actions = 0

    def timeline(self, assignment: Assignment) -> Timeline | None:
        """The simulated step; None where the schedule is not defined for it, or does not fit the memory."""
        if assignment not in self.timelines:
            try:
                self.timelines[assignment] = self._simulate(pipeline(self.problem, assignment))
            except AutoparError as error:
                self.timelines[assignment], self.refused = None, error
        return self.timelines[assignment]

    def seconds(self, assignment: Assignment) -> float:
        """The makespan, `inf` where there is none."""
        timeline = self.timeline(assignment)
        return float("inf") if timeline is None else timeline.makespan

    def bound(self, assignment: Assignment) -> float:
        """What no schedule of an assignment beats; 0 where to know it would take as long as to simulate one."""
        task = pipeline(self.problem, assignment)
        return lower_bound(task) if task.segments * task.microbatches <= _FEW else 0.0

    def _simulate(self, task: PipelineProblem) -> Timeline:
        lists = auto(task) if self.schedule == "auto" else NAMED[self.schedule](task)
        timeline = simulate(task, lists)
        self.simulated += 1
        self.actions += sum(map(len, lists))
        if any(peak > task.most(q) * (1 + ROUNDING) for q, peak in enumerate(timeline.peak)):
            raise InfeasiblePlan(f"{self.schedule} keeps more than the memory limit")
        return timeline
