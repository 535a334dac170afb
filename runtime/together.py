"""No rank fails alone: what one rank raises inside `together`, all ranks raise.

    with together(comm, "reading the parameters"):
        ...

Leaving the context, the ranks sum one number, and exchange their outcomes if any of them failed. Where all were
refused for the same reason, that very error is raised, and otherwise a `CommError` that names the ranks and what each
of them met. Such errors carry a note, so that only one of them need be printed. Inside the context there is to be no
collective that only the ranks without an error would enter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autopar.errors import AutoparError, CommError, refusal
from autopar.runtime.transport.base import Comm

ALIKE = "raised alike on every rank"


@contextmanager
def together(comm: Comm, what: str) -> Iterator[None]:
    """Run the body on every rank and let all fail if one does. Collective. `what` says what the body does."""
    error: Exception | None = None
    try:
        yield
    except Exception as raised:  # whatever it is, the other ranks must hear of it
        error = raised
    agree(comm, what, error)


def agree(comm: Comm, what: str, error: Exception | None) -> None:
    """Raise on every rank if any rank brings an error. Collective; one sum of a number where nobody does."""
    objections = torch.tensor([error is not None], dtype=torch.int64)
    comm.all_reduce(objections)
    if not objections.item():
        return
    outcomes = comm.gather_objects(None if error is None else [type(error).__name__, str(error)])
    failed = {rank: outcome for rank, outcome in enumerate(outcomes) if isinstance(outcome, list)}
    if isinstance(error, AutoparError) and all(outcome == outcomes[0] for outcome in outcomes):
        raise _noted(error)
    raise _noted(CommError(_message(what, failed, comm.size))) from error


def is_alike(error: BaseException) -> bool:
    """Whether every rank has raised this error."""
    return ALIKE in getattr(error, "__notes__", ())


def _noted(error: AutoparError) -> AutoparError:
    if not is_alike(error):
        error.add_note(ALIKE)
    return error


def _message(what: str, failed: dict[int, list[str]], size: int) -> str:
    ranks = ", ".join(map(str, failed))
    given = f"failed on rank {ranks} of {size}" if len(failed) == 1 else f"failed on ranks {ranks} of {size}"
    causes: dict[str, list[int]] = {}
    for rank, (kind, text) in failed.items():
        causes.setdefault(f"{kind}: {text}", []).append(rank)
    lines = [f"rank {', '.join(map(str, who))}: {cause}" for cause, who in causes.items()]
    return refusal(what, given, "no rank goes on alone", lines)
