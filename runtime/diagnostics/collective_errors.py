"""No rank fails alone: what one rank raises inside `together`, all ranks raise.

    with together(comm, "reading the parameters"):
        ...

Leaving the context, the ranks sum one number, and exchange their outcomes if any of them failed. Where all were
refused for the same reason, that very error is raised, and otherwise a `CommError` that names the ranks and what each
of them met. Such errors carry a note, so that only one of them need be printed. A rank that leaves by `sys.exit` or by an
interrupt goes its way, and the others raise. Inside the context there is to be no collective that only the ranks without
an error would enter.

`by_rank0` is for work that one rank does for all: what it makes, and what it raises, is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from autopar import errors
from autopar.errors import AutoparError, CommError, refusal
from autopar.runtime.transport.base import Comm

ALIKE = "raised alike on every rank"
_TOLD = "raised by every rank of a group, told by rank "


@contextmanager
def together(comm: Comm, what: str) -> Iterator[None]:
    """Run the body on every rank and let all fail if one does. Collective. `what` says what the body does."""
    error: BaseException | None = None
    try:
        yield
    except (Exception, SystemExit, KeyboardInterrupt) as raised:  # whatever it is, the other ranks must hear of it
        error = raised
    agree(comm, what, error)


def agree(comm: Comm, what: str, error: BaseException | None) -> None:
    """Raise on every rank if any rank brings an error. Collective; one sum of a number where nobody does."""
    objections = torch.tensor([error is not None], dtype=torch.int64)
    comm.all_reduce(objections)
    if not objections.item():
        return
    outcomes = comm.gather_objects(_outcome(error))
    failed = {rank: outcome for rank, outcome in enumerate(outcomes) if isinstance(outcome, list)}
    if error is not None and not isinstance(error, Exception):
        raise error
    if isinstance(error, AutoparError) and all(outcome == outcomes[0] for outcome in outcomes):
        raise alike(error)
    raise _others(what, failed, comm.size) from error


def by_rank0(comm: Comm, what: str, work: Callable[[], object]) -> Any:  # noqa: ANN401 (plain JSON)
    """What rank 0 makes of plain JSON, on every rank. Collective.

    Whatever `work` raises there, all ranks raise: the same kind with the same words where autopar refuses, and anything
    else on rank 0 alone, a CommError that names it on the others.
    """
    result: object = None
    error: BaseException | None = None
    if comm.rank == 0:
        try:
            result = work()
        except BaseException as raised:  # also an interrupt: the others would wait for ever
            error = raised
    answer: Any = comm.gather_objects([_outcome(error), result])[0]
    outcome, result = answer
    if outcome is None:
        return result
    kind = _known(outcome[0])
    if isinstance(error, AutoparError):
        raise alike(error)
    if error is not None:
        raise error
    raise (
        alike(kind(outcome[2])) if kind is not None else tell_by(CommError(_message(what, {0: outcome}, comm.size)), 0)
    )


def ranks_by(pairs: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """The ranks that bring each text, from pairs of a rank and its text."""
    groups: dict[str, list[int]] = {}
    for rank, text in pairs:
        groups.setdefault(text, []).append(rank)
    return groups


def alike(error: AutoparError) -> AutoparError:
    """The error, which every rank raises."""
    if not is_alike(error):
        error.add_note(ALIKE)
    return error


def is_alike(error: BaseException) -> bool:
    """Whether every rank has raised this error."""
    return ALIKE in getattr(error, "__notes__", ())


def told_by(error: BaseException) -> int | None:
    """The rank that is to tell of this error, where the others have raised it as well."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(_TOLD)]
    return int(notes[0].removeprefix(_TOLD)) if notes else None


def tell_by(error: CommError, rank: int) -> CommError:
    """The error, of which this rank is to tell."""
    error.add_note(f"{_TOLD}{rank}")
    return error


def _outcome(error: BaseException | None) -> list[str] | None:
    """The kind of an error as users know it, whether its rank will tell of it, and its words."""
    if error is None:
        return None
    known = [base for base in type(error).__mro__ if base.__module__ == errors.__name__]
    silent = isinstance(error, SystemExit) and not error.code
    own = isinstance(error, Exception) or silent
    return [(known[0] if known else type(error)).__name__, "" if own else "goes its way", str(error)]


def _known(name: str) -> type[AutoparError] | None:
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, AutoparError) else None


def _others(what: str, failed: dict[int, list[str]], size: int) -> AutoparError:
    """What the ranks raise that have not met the cause themselves, or met different ones."""
    error = CommError(_message(what, failed, size))
    telling = [rank for rank, (_, own_way, _) in failed.items() if own_way]
    return tell_by(error, telling[0]) if telling else alike(error)


def _message(what: str, failed: dict[int, list[str]], size: int) -> str:
    ranks = ", ".join(map(str, failed))
    problem = f"failed on rank {ranks} of {size}" if len(failed) == 1 else f"failed on ranks {ranks} of {size}"
    causes = ranks_by((rank, f"{kind}: {text}") for rank, (kind, _, text) in failed.items())
    lines = [f"rank {', '.join(map(str, who))}: {cause}" for cause, who in causes.items()]
    return refusal(what, problem, "no rank goes on alone", lines)
