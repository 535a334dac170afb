"""The model of a compiled folder compiled again as its plan was, to ask what else could have been done."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

from autopar.compiler import Compiled, compile_with
from autopar.errors import PlanError, refusal
from autopar.ir.machine import Machine
from autopar.ir.plan import ModelSource, Options, Plan
from autopar.ir.plan_file import load_plan
from autopar.model_file import load as load_model
from autopar.progress import Progress, logged


def recompile(folder: str | Path) -> Compiled:
    """Compile the model of a folder again, as its plan was compiled, so that alternatives can be priced.

    Raises PlanError where the folder came from a live module, or where the model file is gone or no longer the same, or
    leads to another plan.
    """
    folder, plan, path = _source(folder)
    compiled = _compiled(plan, path, plan.machine, replace(plan.options, batch_sizes=()), logged())
    _check_model(plan, compiled.plan, path, folder)
    _check_same(plan, compiled.plan, path, folder)
    return compiled


def planned_again(folder: str | Path, machine: Machine, progress: Progress) -> Compiled:
    """Compile the model of a folder for the same grid and with the same options, but for another machine.

    Raises PlanError as `recompile` does where the model is not to be had, and what `compile` raises.
    """
    folder, plan, path = _source(folder)
    compiled = _compiled(plan, path, machine, plan.options, progress)
    _check_model(plan, compiled.plan, path, folder)
    return compiled


def planned_for(folder: str | Path, ranks: int, progress: Progress) -> Compiled:
    """Compile the model of a folder for another number of ranks: over its axis if it has one, else for the best grid.

    Raises PlanError as `recompile` does where the model is not to be had, and what `compile` raises.
    """
    folder, plan, path = _source(folder)
    axis = re.fullmatch(r"(\w+[=:])?\d+", plan.grid)
    grid = "auto" if axis is None else f"{axis[1] or ''}{ranks}"
    compiled = _compiled(plan, path, plan.machine, plan.options, progress, grid, ranks if grid == "auto" else None)
    _check_model(plan, compiled.plan, path, folder)
    return compiled


def _compiled(
    plan: Plan,
    path: Path,
    machine: Machine,
    options: Options,
    progress: Progress,
    grid: str | None = None,
    ranks: int | None = None,
) -> Compiled:
    file = load_model(f"{path}:{plan.model.attribute}")
    source = ModelSource(str(path), file.sha256, file.attribute)
    return compile_with(
        options,
        file.model,
        file.example_inputs,
        grid or plan.grid,
        machine,
        ranks,
        plan.name,
        source,
        progress=progress,
    )


def _source(folder: str | Path) -> tuple[Path, Plan, Path]:
    """The folder, its plan, and the model file. Raises PlanError."""
    folder = Path(folder)
    plan = load_plan(folder)
    return folder, plan, _model_path(plan, folder if folder.is_dir() else folder.parent)


def _model_path(plan: Plan, folder: Path) -> Path:
    """The model file, as it was when the plan was made."""
    if not plan.model.path:
        fix = "ask where it was compiled: compiled.explain(name); or compile a model file"
        fault = f"{plan.name} was compiled from a live module"
        raise PlanError(refusal(str(folder), fault, "a folder is compiled again from its model file", fix=fix))
    path = (folder / plan.model.path).resolve()
    rule = "a folder is compiled again from the model file that its plan was made of"
    if not path.is_file():
        raise PlanError(
            refusal(str(folder), f"its model file {path} is gone", rule, fix="move the file back, or compile again")
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != plan.model.sha256:
        raise PlanError(
            refusal(str(path), "the file changed since it was compiled", rule, fix=_compile_command(plan, path, folder))
        )
    return path


def _check_model(plan: Plan, now: Plan, path: Path, folder: Path) -> None:
    rule = "compiled again, a model gives the graph that was planned"
    if now.graph_sha256 != plan.graph_sha256:
        fault = "the file is the same, but the model is another: something that it imports changed"
        raise PlanError(refusal(str(path), fault, rule, fix=_compile_command(plan, path, folder)))


def _check_same(plan: Plan, now: Plan, path: Path, folder: Path) -> None:
    rule = "compiled again, a model gives the plan that is explained"
    if (now.nodes, now.parameters) != (plan.nodes, plan.parameters):
        fault = f"another plan came out ({now.solver.method}, gap {now.solver.gap:.2%})"
        fix = _compile_command(plan, path, folder) + "; with a higher --time-limit where the solver is stopped by it"
        raise PlanError(refusal(str(folder), fault, rule, fix=fix))


def _compile_command(plan: Plan, path: Path, folder: Path) -> str:
    """The command that compiles the folder anew."""
    attribute = "" if plan.model.attribute == "model" else f":{plan.model.attribute}"
    words = ["autopar", "compile", f"{os.path.relpath(path)}{attribute}", "--grid", plan.grid]
    options = plan.options
    words += [] if plan.machine.name == "cpu" else ["--machine", plan.machine.name]
    words += [] if options.memory is None else ["--memory", f"{options.memory:.0f}"]
    words += [] if options.optimizer == "adamw" else ["--optimizer", options.optimizer]
    words += [] if options.loss is None else ["--loss", options.loss]
    words += [word for output in options.outputs for word in ("--return", output)]
    words += [word for pin in options.pins for word in ("--pin", pin)]
    words += [word for ban in options.bans for word in ("--ban", ban)]
    words += [] if options.plan == "auto" else ["--plan", options.plan]
    words += ["--batch-sizes", ",".join(map(str, options.batch_sizes))] if options.batch_sizes else []
    words += ["--microbatches", options.microbatches] if options.microbatches else []
    words += [] if options.schedule == "auto" else ["--schedule", options.schedule]
    words += [] if options.segments is None else ["--segments", str(options.segments)]
    words += ["--measure"] if options.measure else []
    words += [] if options.recompute == "auto" else ["--recompute", options.recompute]
    return shlex.join([*words, "-o", str(folder)])
