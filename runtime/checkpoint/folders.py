"""Which checkpoints a folder has, which of them is the newest that is whole, and which may go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autopar.errors import CheckpointError, refusal
from autopar.runtime.checkpoint import durable
from autopar.runtime.checkpoint.digest import differs
from autopar.runtime.checkpoint.index import INDEX, Index, read_index
from autopar.runtime.diagnostics.collective_errors import alike, by_rank0
from autopar.runtime.transport.base import Comm

_STEP = re.compile(r"step-(\d{8,})")
WRITING, REPLACED = ".writing-", ".replaced-"
"""How names of folders begin that are no checkpoint yet, or no longer."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The newest checkpoint that is whole, and a line for each newer one that is not."""

    path: Path
    passed: tuple[str, ...] = ()


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def faults(path: Path, share: slice = slice(None), *, thorough: bool = False) -> Iterator[str]:
    """What is wrong with a checkpoint, a line each; of its files only a share is read. Raises CheckpointError for its index.

    Files are compared by their checksums, if `thorough` by their sha256 too.
    """
    index = read_index(path)
    for name in sorted(index.files)[share]:
        said, file = index.files[name], path / name
        if not file.is_file():
            yield f"{name} is missing"
        elif (size := file.stat().st_size) != said.bytes:
            yield f"{name} has {size} bytes, and {said.bytes} were written"
        elif what := differs(file, said, thorough=thorough):
            yield f"{name} has changed since it was written ({what})"


def newest(folder: Path, comm: Comm) -> Chosen:
    """The checkpoint at a path: itself, or the newest whole one in it. Collective. Raises CheckpointError, on all ranks.

    The ranks share the reading of the files.
    """
    found = by_rank0(comm, f"looking into {folder}", lambda: _to_read(folder))
    passed: list[str] = []
    for path in map(Path, found):
        try:
            lines = list(faults(path, slice(comm.rank, None, comm.size)))
        except CheckpointError as error:
            lines = [str(error).splitlines()[0]]
        except OSError as error:
            lines = [f"rank {comm.rank} cannot read it: {error}"]
        every: list[str] = [line for theirs in comm.gather_objects(lines) for line in theirs]  # type: ignore[attr-defined]
        if not every:
            return Chosen(path, tuple(passed))
        passed.append(f"{path.name}: {'; '.join(dict.fromkeys(every))}")
    rule = "training goes on from the newest checkpoint that is whole"
    given = "there is no checkpoint in it" if not passed else "no checkpoint in it is whole"
    raise alike(CheckpointError(refusal(str(folder), given, rule, passed, "begin anew, or name another folder")))


def _to_read(folder: Path) -> list[str]:
    _put_back(folder)
    return list(map(str, candidates(folder)))


def candidates(folder: Path) -> list[Path]:
    """The checkpoint that a path names, or all that are in a folder, the newest first."""
    return [folder] if (folder / INDEX).exists() or _STEP.fullmatch(folder.name) else steps(folder)


def _put_back(folder: Path) -> None:
    """A checkpoint that made room for another of its step, which never came, has its name again."""
    for aside in folder.glob(f"{REPLACED}*"):
        final = step_folder(folder, int(aside.name.removeprefix(REPLACED)))
        if not final.exists():
            durable.rename(aside, final)


def open_folder(folder: Path, step: int) -> Path:
    """A folder to write a checkpoint into, beside where it will stand; what earlier jobs left behind is removed."""
    durable.make_folder(folder)
    _put_back(folder)
    for left in [*folder.glob(f"{WRITING}*"), *folder.glob(f"{REPLACED}*")]:
        durable.remove(left)
    writing = folder / f"{WRITING}{step:08d}"
    durable.make_folder(writing)
    return writing


def commit(writing: Path, folder: Path, step: int, keep: int | None) -> Path:
    """Give a whole checkpoint its name, and remove what is older than the newest `keep` whose files have their sizes.

    One of the same step makes room for it.
    """
    final, aside = step_folder(folder, step), folder / f"{REPLACED}{step:08d}"
    if final.exists():
        durable.rename(final, aside)
    durable.rename(writing, final)
    if aside.exists():
        durable.remove(aside)
    kept = 1
    for path in [path for path in steps(folder) if path != final] if keep is not None else ():
        if kept == keep:
            durable.remove(path)
        else:
            kept += _complete(path)
    return final


def _complete(path: Path) -> bool:
    """Whether the files of a checkpoint are there in their sizes, which costs no reading."""
    try:
        files = read_index(path).files
        return all((path / name).stat().st_size == said.bytes for name, said in files.items())
    except (CheckpointError, OSError):
        return False


def listed(folder: Path, *, read: bool = True) -> list[tuple[Path, Index | None, list[str]]]:
    """Every checkpoint of a folder with its index and what is wrong with it, the newest first; files are read only if `read`."""
    rows: list[tuple[Path, Index | None, list[str]]] = []
    for path in candidates(folder):
        try:
            rows.append((path, read_index(path), list(faults(path, slice(None) if read else slice(0), thorough=True))))
        except CheckpointError as error:
            rows.append((path, None, [str(error).splitlines()[0]]))
    return rows
