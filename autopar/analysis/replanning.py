"""A model planned anew by what a profiled run of its program has shown: `autopar.analysis.observed_costs` says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopar.analysis.measured_actions import action_rows
from autopar.analysis.observed_costs import observed_machine
from autopar.analysis.plan_diff import Difference, diff
from autopar.analysis.plan_vs_profile import compare
from autopar.artifact import PLAN, CompiledFolder, load
from autopar.compiler import Compiled
from autopar.errors import ConfigError, PlanError, refusal
from autopar.ir import profile as profiles
from autopar.ir.machine import Machine
from autopar.ir.pipeline import measured_step
from autopar.ir.pipeline.measured_step import MeasuredStep
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.plan import Plan
from autopar.ir.profile import Profile
from autopar.progress import Progress, silent
from autopar.recompile import planned_again


@dataclass(frozen=True, slots=True)
class ReplannedRow:
    """Seconds of one step: as the plan predicted them, as they were measured, and as the new plan predicts them.

    The measured ones are the slowest rank's; None is what is not predicted, or cannot be measured.
    """

    name: str
    predicted: float | None
    measured: float | None
    replanned: float | None


@dataclass(frozen=True, slots=True)
class Replanned:
    """The new plan, as `autopar.compile` gives it, the machine that it was made for, and what is new."""

    compiled: Compiled
    former: Plan
    machine: Machine
    rows: tuple[ReplannedRow, ...]

    @property
    def difference(self) -> Difference:
        """What differs between the former plan and the new one."""
        return diff(self.former, self.compiled.plan)

    def save(self, folder: str | Path) -> Path:
        """Write the new plan and its program. Raises ConfigError where that is impossible."""
        return self.compiled.save(folder)


def replan(folder: str | Path, profile: str | Path | None = None, progress: Progress = silent) -> Replanned:
    """Plan the model of a compiled folder anew, for the same grid, by what ``autopar run --profile`` has measured.

    `profile` is the file that the run has written: without, the one in the folder. How long operators take, how fast each rank
    computes, what messages and the optimizer's update take is put into the machine profile that the folder was compiled for.

    Raises ConfigError where there is no profile, where it is of another build, or boundaries were moved before it; PlanError
    where the model's file is gone or has changed; InfeasiblePlan.
    """
    saved = load(folder)
    measured = _measured(saved, None if profile is None else Path(profile))
    machine = observed_machine(saved.plan, measured)
    compiled = planned_again(saved.folder, machine, progress)
    return Replanned(compiled, saved.plan, machine, tuple(_rows(saved.plan, measured, compiled.plan)))


def _measured(saved: CompiledFolder, file: Path | None) -> Profile | MeasuredStep:
    """What was measured of the folder's program. Raises ConfigError where nothing is known that a plan can be made from."""
    plan, where = saved.plan, saved.folder
    if plan.shape.queue is not None:
        rule = "a plan is made anew from how long each rank took for its part of a step"
        fix = "nothing need be done: replicas draw as many micro-batches as they are fast"
        raise ConfigError(refusal(f"grid {plan.grid}", "its replicas draw micro-batches from a queue", rule, fix=fix))
    text = (where / PLAN).read_text(encoding="utf-8")
    name = profiles.FILE if plan.placement is None else measured_step.FILE
    file = where / name if file is None else file
    _check_own(saved, file)
    measured: Profile | MeasuredStep
    if plan.placement is None:
        measured = profiles.load_profile(where, saved.source, text, plan.shape.size, file)
        moved = measured.moves
    else:
        measured = measured_step.load_step(where, saved.source, plan.placement.positions, file)
        moved = tuple(move for move in measured.moves if "to position" not in move)
    if moved:
        rule = "what a plan predicted is set beside ranks that have the rows which it gave them"
        fix = f"run `autopar run {where} --profile`, without --balance"
        raise ConfigError(refusal(str(file), "boundaries were moved before it was measured", rule, moved, fix))
    return measured


def _check_own(saved: CompiledFolder, file: Path) -> None:
    """Raise ConfigError where a profile lies beside the program of another build, and is of that."""
    if file.parent.resolve() == saved.folder.resolve() or not file.is_file():
        return
    try:
        other = load(file.parent)
    except PlanError:
        return
    if other.source != saved.source:
        grid = "" if other.plan.grid == saved.plan.grid else f" on grid {other.plan.grid}"
        fault = f"it is of another build: {other.plan.name}{grid}, in {file.parent}"
        fix = f"run `autopar replan {file.parent}`, or `autopar run {saved.folder} --profile` and name that profile"
        raise ConfigError(refusal(str(file), fault, f"a plan is made anew from a run of {saved.folder}", fix=fix))


def _rows(former: Plan, measured: Profile | MeasuredStep, new: Plan) -> list[ReplannedRow]:
    """A step by cause; of a divided one by segment and by position."""
    if isinstance(measured, Profile):
        again = {
            "compute, forward": sum(node.seconds_forward for node in new.nodes),
            "compute, backward": sum(node.seconds_backward for node in new.nodes),
            "communication": new.predicted.communication,
            "gradient sums, exposed": new.predicted.gradients,
            "update": new.predicted.update,
            "whole step": new.predicted.seconds,
        }
        totals = compare(former, measured, {}).totals
        return [
            ReplannedRow(row.name, row.predicted if row.name in again else None, row.slowest, again.get(row.name))
            for row in totals
            if not row.name.startswith("of it")
        ]
    assert former.placement is not None
    before, after = former.placement, new.placement
    rows = [
        ReplannedRow(f"segment {row.segment}, {row.kind}, a micro-batch", row.predicted, row.measured, None)
        for row in action_rows(before, measured)
    ]
    rows += [
        ReplannedRow(f"position {q}, work", _work(before, q), measured.slowest(q).work, _work(after, q))
        for q in range(before.positions)
    ]
    updates = max(before.update), None if after is None else max(after.update)
    rows.append(ReplannedRow("after the last action: update", updates[0], measured.after, updates[1]))
    return [*rows, ReplannedRow("whole step", former.predicted.seconds, measured.seconds, new.predicted.seconds)]


def _work(placement: PlacementPlan | None, position: int) -> float | None:
    """Seconds that a position computes in a step, without the update."""
    if placement is None:
        return None
    here = [segment for segment in placement.segments if segment.position == position]
    return placement.microbatches * sum(segment.seconds_forward + segment.seconds_backward for segment in here)
