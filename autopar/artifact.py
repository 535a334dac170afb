"""A compiled folder on disk: ``program.py``, ``plan.json``, and tensors that have no other home.

    save   a compiled model becomes a folder; files appear whole or not at all, the plan last
    load   the plan and the program of a folder

A live module has no file to make its parameters from, so they are stored too; constants that capture lifted out of the model
always are. A program that was edited by hand is never overwritten: it is set aside.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from autopar.errors import ConfigError, PlanError, refusal
from autopar.ir.plan import ModelSource, Plan
from autopar.ir.plan_file import load_plan, to_json

if TYPE_CHECKING:
    import torch

PROGRAM, PLAN, CONSTANTS, PARAMETERS = "program.py", "plan.json", "constants.safetensors", "parameters.safetensors"
EDITED = "program.edited.py"
_WRITERS = Mapping[str, Callable[[Path], None]]


class Savable(Protocol):
    """What a folder is written of: a compiled model, with the programs for other numbers of rows."""

    @property
    def plan(self) -> Plan: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def constants(self) -> Mapping[str, torch.Tensor]: ...  # noqa: D102
    @property
    def model(self) -> object: ...  # noqa: D102
    @property
    def others(self) -> Sequence[Savable]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class CompiledFolder:
    """A folder that was read: its plan, the text of its program as it stands now, and where it is."""

    plan: Plan
    source: str
    folder: Path

    @property
    def edited(self) -> bool:
        """Whether the program is no longer the one that the plan speaks of."""
        return _digest(self.source) != self.plan.program_sha256


def load(folder: str | Path) -> CompiledFolder:
    """Read a compiled folder. Raises PlanError where it is damaged, incomplete, or of another release."""
    folder = Path(folder)
    plan = load_plan(folder)
    folder = folder if folder.is_dir() else folder.parent
    try:
        return CompiledFolder(plan, (folder / PROGRAM).read_text(encoding="utf-8"), folder)
    except (OSError, UnicodeDecodeError) as error:
        rule = "a compiled folder holds plan.json and program.py"
        fix = "compile the model again with `autopar compile`"
        raise PlanError(refusal(str(folder / PROGRAM), f"cannot be read: {error}", rule, fix=fix)) from error


def check_writable(folder: Path) -> None:
    """Raise ConfigError where a folder cannot be written, so that nobody learns it after a long compilation."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    if not there.is_dir():
        raise _unwritable(folder, f"{there} is a file")
    try:
        with _folder_there(folder, keep=False), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, f"nothing can be written there: {error}") from error


def _unwritable(folder: Path, fault: str) -> ConfigError:
    rule = "a compiled model is a folder that can be written"
    return ConfigError(refusal(f"output {folder}", fault, rule, fix="choose another folder with -o"))


def save(compiled: Savable, folder: Path) -> Path:
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
    programs = [folder / PROGRAM] if is_edited(folder) else []
    for file in sorted(folder.glob("program_*.py")):
        plan = file.with_name(file.name.replace("program", "plan")).with_suffix(".json")
        if re.fullmatch(r"program_\d+\.py", file.name) and not (plan.exists() and _as_written(file, plan)):
            programs.append(file)
    return programs


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


def _tensors(compiled: Savable) -> Iterator[tuple[str, Callable[[Path], None]]]:
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


def _others(other: Savable, source: ModelSource) -> _WRITERS:
    """Writers of the program for another number of rows: ``program_17.py``, its plan, and its constants."""
    rows, plan = other.plan.batch.rows, replace(other.plan, model=source)
    writers: dict[str, Callable[[Path], None]] = {
        of_rows(PROGRAM, rows): lambda file: _write_text(file, other.source),
        of_rows(PLAN, rows): lambda file: _write_text(file, to_json(plan)),
    }
    if other.constants:
        writers[of_rows(CONSTANTS, rows)] = lambda file: _write_tensors(file, other.constants)
    return writers


def of_rows(name: str, rows: int) -> str:
    """The name of the file of a program for another number of rows.

    >>> of_rows("program.py", 17)
    'program_17.py'
    """
    path = Path(name)
    return f"{path.stem}_{rows}{path.suffix}"


def _write_all(folder: Path, writers: _WRITERS, *, aside: Sequence[Path]) -> None:
    """Write every file beside its place first, then move all there; the old files stay where anything fails."""
    with _folder_there(folder):
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
        older += [file for file in folder.iterdir() if re.fullmatch(r"(program|plan|constants)_\d+\.\w+", file.name)]
        for file in older:  # of a model that was compiled into this folder before
            if file.name not in writers:
                file.unlink(missing_ok=True)


@contextmanager
def _folder_there(folder: Path, *, keep: bool = True) -> Iterator[None]:
    """The folder, with the parents it lacks; those that were made are removed again where the block fails or `keep` is off."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        keep = False
        raise
    finally:
        for parent in missing if not keep else ():
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _free(path: Path) -> Path:
    """The path, or the first of its numbered siblings that does not exist."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free


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
