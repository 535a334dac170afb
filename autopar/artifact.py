"""A compiled folder on disk: ``program.py``, ``plan.json``, and tensors that have no other home.

    save       a compiled model becomes a folder; files appear whole or not at all, the plan last
    load       the plan and the program of a folder
    recompile  the same model compiled again as its plan was, to ask what else could have been done

A live module has no file to make its parameters from, so they are stored too; constants that capture lifted out of the model
always are. A program that was edited by hand is never overwritten: it is set aside.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autopar.errors import ConfigError, PlanError, refusal
from autopar.ir.plan import ModelSource, Plan, load_plan, to_json

if TYPE_CHECKING:
    import torch

    from autopar.compiler import Compiled

PROGRAM, PLAN, CONSTANTS, PARAMETERS = "program.py", "plan.json", "constants.safetensors", "parameters.safetensors"
EDITED = "program.edited.py"
_WRITERS = Mapping[str, Callable[[Path], None]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder that was read: its plan, the text of its program as it stands now, and where it is."""

    plan: Plan
    source: str
    folder: Path

    @property
    def edited(self) -> bool:
        """Whether the program is no longer the one that the plan speaks of."""
        return _digest(self.source) != self.plan.program_sha256


def load(folder: str | Path) -> Saved:
    """Read a compiled folder. Raises PlanError where it is damaged, incomplete, or of another release."""
    folder = Path(folder)
    plan = load_plan(folder)
    folder = folder if folder.is_dir() else folder.parent
    try:
        return Saved(plan, (folder / PROGRAM).read_text(encoding="utf-8"), folder)
    except (OSError, UnicodeDecodeError) as error:
        rule = "a compiled folder holds plan.json and program.py"
        fix = "compile the model again with `autopar compile`"
        raise PlanError(refusal(str(folder / PROGRAM), f"cannot be read: {error}", rule, fix=fix)) from error


def check_writable(folder: Path) -> None:
    """Raise ConfigError where a folder cannot be written, so that nobody learns it after a long compilation."""
    there = next((one for one in (folder, *folder.absolute().parents) if os.path.lexists(one)), folder)
    if not there.is_dir():
        raise _unwritable(folder, f"{there} is a file")
    try:
        with _made(folder, keep=False), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, f"nothing can be written there: {error}") from error


def _unwritable(folder: Path, given: str) -> ConfigError:
    rule = "a compiled model is a folder that can be written"
    return ConfigError(refusal(f"output {folder}", given, rule, fix="choose another folder with -o"))


def save(compiled: Compiled, folder: Path) -> Path:
    """Write a compiled model into `folder`, made where it is missing. Returns the folder.

    Raises ConfigError where that is impossible; the folder is then as it was before.
    """
    check_writable(folder)
    plan = compiled.plan
    if plan.model.path:
        path = Path(os.path.relpath(Path(plan.model.path).resolve(), folder.resolve())).as_posix()
        plan = replace(plan, model=replace(plan.model, path=path))
    writers = dict(_tensors(compiled))
    writers[PROGRAM] = lambda file: _write_text(file, compiled.source)
    for other in compiled.others:
        writers |= _others(other, plan.model)
    writers[PLAN] = lambda file: _write_text(file, to_json(plan))
    try:
        _write_all(folder, writers, aside=_edited(folder))
    except OSError as error:
        raise _unwritable(folder, f"cannot be written: {error}") from error
    return folder


def _edited(folder: Path) -> list[Path]:
    """The programs in a folder that were edited by hand."""
    found = [folder / PROGRAM] if is_edited(folder) else []
    for file in sorted(folder.glob("program_*.py")):
        plan = file.with_name(file.name.replace("program", "plan")).with_suffix(".json")
        if re.fullmatch(r"program_\d+\.py", file.name) and not (plan.exists() and _as_written(file, plan)):
            found.append(file)
    return found


def _as_written(file: Path, plan: Path) -> bool:
    try:
        return _digest(file.read_text(encoding="utf-8")) == load_plan(plan).program_sha256
    except (PlanError, OSError, UnicodeDecodeError):
        return False


def is_edited(folder: Path) -> bool:
    """Whether the folder holds a program that `save` did not write, or that was changed since."""
    if not (folder / PROGRAM).exists():
        return False
    try:
        return load(folder).edited
    except PlanError:  # without a plan to tell, it may be somebody's work
        return True


def recompile(folder: str | Path) -> Compiled:
    """Compile the model of a folder again, as its plan was compiled, so that alternatives can be priced.

    Raises PlanError where the folder came from a live module, or where the model file is gone or no longer the same, or
    leads to another plan.
    """
    from autopar.compiler import compile
    from autopar.model_file import load as load_model

    folder = Path(folder)
    plan = load_plan(folder)
    path = _model_path(plan, folder if folder.is_dir() else folder.parent)
    file = load_model(f"{path}:{plan.model.attribute}")
    compiled = compile(
        file.model,
        file.example_inputs,
        grid=plan.grid,
        machine=plan.machine,
        memory=plan.options.memory,
        solver=plan.options.solver,
        pin=plan.options.pins,
        ban=plan.options.bans,
        plan=plan.options.plan,
        measure=plan.options.measure,
        recompute=plan.options.recompute,
        optimizer=plan.options.optimizer,
        loss=plan.options.loss,
        outputs=plan.options.outputs,
        name=plan.name,
        source=ModelSource(str(path), file.sha256, file.attribute),
        time_limit=plan.options.time_limit,
    )
    _check_same(plan, compiled.plan, path, folder)
    return compiled


def _model_path(plan: Plan, folder: Path) -> Path:
    """The model file, as it was when the plan was made."""
    if not plan.model.path:
        fix = "ask where it was compiled: compiled.explain(name); or compile a model file"
        given = f"{plan.name} was compiled from a live module"
        raise PlanError(refusal(str(folder), given, "a folder is compiled again from its model file", fix=fix))
    path = (folder / plan.model.path).resolve()
    rule = "a folder is compiled again from the model file that its plan was made of"
    if not path.is_file():
        raise PlanError(
            refusal(str(folder), f"its model file {path} is gone", rule, fix="move the file back, or compile again")
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != plan.model.sha256:
        raise PlanError(
            refusal(str(path), "the file changed since it was compiled", rule, fix=_again(plan, path, folder))
        )
    return path


def _check_same(plan: Plan, now: Plan, path: Path, folder: Path) -> None:
    rule = "compiled again, a model gives the plan that is explained"
    if now.graph_sha256 != plan.graph_sha256:
        given = "the file is the same, but the model is another: something that it imports changed"
        raise PlanError(refusal(str(path), given, rule, fix=_again(plan, path, folder)))
    if (now.nodes, now.parameters) != (plan.nodes, plan.parameters):
        given = f"another plan came out ({now.solver.method}, gap {now.solver.gap:.2%})"
        fix = _again(plan, path, folder) + "; with a higher --time-limit where the solver is stopped by it"
        raise PlanError(refusal(str(folder), given, rule, fix=fix))


def _again(plan: Plan, path: Path, folder: Path) -> str:
    """The command that compiles the folder anew."""
    attribute = "" if plan.model.attribute == "model" else f":{plan.model.attribute}"
    given = ["autopar", "compile", f"{os.path.relpath(path)}{attribute}", "--grid", plan.grid]
    options = plan.options
    given += [] if plan.machine.name == "cpu" else ["--machine", plan.machine.name]
    given += [] if options.memory is None else ["--memory", f"{options.memory:.0f}"]
    given += [] if options.optimizer == "adamw" else ["--optimizer", options.optimizer]
    given += [] if options.loss is None else ["--loss", options.loss]
    given += [word for output in options.outputs for word in ("--return", output)]
    given += [word for pin in options.pins for word in ("--pin", pin)]
    given += [word for ban in options.bans for word in ("--ban", ban)]
    given += [] if options.plan == "auto" else ["--plan", options.plan]
    given += ["--batch-sizes", ",".join(map(str, options.batch_sizes))] if options.batch_sizes else []
    given += ["--measure"] if options.measure else []
    given += [] if options.recompute == "auto" else ["--recompute", options.recompute]
    return shlex.join([*given, "-o", str(folder)])


def _tensors(compiled: Compiled) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Writers of the tensors that have no other home."""
    from torch import nn

    constants, model = compiled.constants, compiled.model
    if constants:
        yield CONSTANTS, lambda file: _write_tensors(file, constants)
    if not compiled.plan.model.path and isinstance(model, nn.Module):
        names = {item.name for item in compiled.plan.parameters if item.kind != "constant"}
        state = model.state_dict(keep_vars=False)
        values = {name: state[name] for name in sorted(names & set(state))}
        yield PARAMETERS, lambda file: _write_tensors(file, values)


def _others(other: Compiled, source: ModelSource) -> _WRITERS:
    """Writers of the program for another number of rows: ``program_17.py``, its plan, and its constants."""
    rows, plan = other.plan.batch.rows, replace(other.plan, model=source)
    found: dict[str, Callable[[Path], None]] = {
        of_rows(PROGRAM, rows): lambda file: _write_text(file, other.source),
        of_rows(PLAN, rows): lambda file: _write_text(file, to_json(plan)),
    }
    if other.constants:
        found[of_rows(CONSTANTS, rows)] = lambda file: _write_tensors(file, other.constants)
    return found


def of_rows(name: str, rows: int) -> str:
    """The name of the file of a program for another number of rows.

    >>> of_rows("program.py", 17)
    'program_17.py'
    """
    path = Path(name)
    return f"{path.stem}_{rows}{path.suffix}"


def _write_all(folder: Path, writers: _WRITERS, *, aside: Sequence[Path]) -> None:
    """Write every file beside its place first, then move all there; the old files stay where anything fails."""
    with _made(folder):
        pairs = [(folder / f".{name}.new", folder / name) for name in writers]
        try:
            for (new, _), write in zip(pairs, writers.values(), strict=True):
                write(new)
        except BaseException:
            for new, _ in pairs:
                new.unlink(missing_ok=True)
            raise
        for file in aside:
            file.replace(_free(file.with_suffix(".edited.py")))
        for new, file in pairs:
            new.replace(file)
        older = [folder / name for name in (CONSTANTS, PARAMETERS)]
        older += [one for one in folder.iterdir() if re.fullmatch(r"(program|plan|constants)_\d+\.\w+", one.name)]
        for file in older:  # of a model that was compiled into this folder before
            if file.name not in writers:
                file.unlink(missing_ok=True)


@contextmanager
def _made(folder: Path, *, keep: bool = True) -> Iterator[None]:
    """The folder, with the parents it lacks; those that were made are removed again where the block fails or `keep` is off."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        keep = False
        raise
    finally:
        for one in missing if not keep else ():
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def _free(path: Path) -> Path:
    """The path, or the first of its numbered siblings that does not exist."""
    number = 2
    found = path
    while found.exists():
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return found


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
