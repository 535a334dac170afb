"""What the ranks of a group compare before a call in checked mode: who calls, from which line, with which type and sizes.

What has to agree depends on the call. With x_i what rank i gives, and y_i[j] what it expects of rank j:

    sums, broadcast                 all x_i have one shape
    reduce-scatter                  all ranks give the same list of shapes, one per rank
    all-gather                      y_i[j] is the shape of x_j, so that parts may be uneven but not of other rows
    all-to-all                      y_i[j] is the shape of x_j[i]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autopar.errors import CommError, refusal
from autopar.runtime.diagnostics.call_site import CallSite
from autopar.runtime.diagnostics.collective_errors import ranks_by, tell_by

Shape = tuple[int, ...]
_ROOM = 1024  # bytes of a print that goes before a message


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One rank's call: where it stands, and the shapes of what it gives to, and takes from, each rank or the group."""

    call: str
    where: str
    dtype: str
    gives: tuple[Shape, ...]
    takes: tuple[Shape, ...]

    def __str__(self) -> str:
        shapes = self.gives or self.takes
        return f"{self.where}{f', {self.dtype}' if self.dtype else ''}{f' {_all(shapes)}' if shapes else ''}"


def take(call: str, site: CallSite, gives: Sequence[Tensor], takes: Sequence[Tensor], detail: str = "") -> Fingerprint:
    """The print of a call. `detail` is anything else that has to be the same on all ranks."""
    first = next(iter((*gives, *takes)), None)
    what = site.what or call
    where = f"{what} at {site.where}" if site.where else what
    dtype = "" if first is None else str(first.dtype).removeprefix("torch.")
    shapes = [tuple(tuple(tensor.shape) for tensor in tensors) for tensors in (gives, takes)]
    return Fingerprint(call, where + (f" ({detail})" if detail else ""), dtype, shapes[0], shapes[1])


def pack(fingerprint: Fingerprint) -> list[Any]:
    """The print as plain JSON."""
    return [fingerprint.call, fingerprint.where, fingerprint.dtype, fingerprint.gives, fingerprint.takes]


def unpack(said: Any) -> Fingerprint:  # noqa: ANN401  (what JSON gives)
    """The print that `pack` has packed."""
    return Fingerprint(*said[:3], *(tuple(tuple(shape) for shape in shapes) for shapes in said[3:]))


def compare(every: Sequence[Fingerprint], members: Sequence[int], over: str) -> None:
    """Raise CommError unless the calls of all members of a group, in its order, fit together."""
    heads = {(fingerprint.call, fingerprint.where, fingerprint.dtype) for fingerprint in every}
    if len(heads) > 1:
        problem = "its ranks are in different calls" if len({head[:2] for head in heads}) > 1 else "the types differ"
        prints = ranks_by(zip(members, map(str, every), strict=True))
        raise _error(over, problem, [f"{_ranks(who)}: {text}" for text, who in prints.items()], members)
    rule = _RULES.get(every[0].call)
    offenders = rule(every, members) if rule is not None else []
    if offenders:
        raise _error(f"{every[0].where} over {over}", "the sizes do not fit", offenders, members)


def summary(fingerprint: Fingerprint) -> Tensor:
    """Numbers whose sums over the ranks show whether all have this print; see `alike`."""
    digest = hashlib.blake2b(json.dumps(pack(fingerprint)).encode(), digest_size=3).digest()
    number = int.from_bytes(digest, "big")
    return torch.tensor([number, number * number], dtype=torch.int64)


def alike(summed: Tensor, ranks: int) -> bool:
    """Whether the numbers h_i of all ranks are one: ``n sum h^2 = (sum h)^2`` holds only then (Cauchy and Schwarz)."""
    total, squares = summed.tolist()
    return bool(ranks * squares == total * total)


def letter(fingerprint: Fingerprint, message: Tensor) -> Tensor:
    """The print of one message of an exchange, as bytes to send before it."""
    said = json.dumps([fingerprint.where, str(message.dtype).removeprefix("torch."), tuple(message.shape)]).encode()
    return torch.tensor(list(said[:_ROOM].ljust(_ROOM)), dtype=torch.uint8)


def open_letters(
    mine: dict[int, Tensor], theirs: dict[int, Tensor], members: Sequence[int], me: int, over: str
) -> None:
    """Raise CommError unless the letters received are those expected; both by the other's place in the group."""
    offenders = []
    for source, got in theirs.items():
        expected, sent = (_read(letter) for letter in (mine[source], got))
        if expected[:2] != sent[:2] or not _fit(tuple(expected[2]), tuple(sent[2])):
            offenders.append(f"rank {members[source]} sends {_message(sent)}")
            offenders.append(f"rank {members[me]} expects {_message(expected)}")
    if offenders:
        raise _error(f"messages over {over}", "what is sent is not what is expected", offenders, [members[me]])


def _error(where: str, problem: str, offenders: Iterable[str], members: Sequence[int]) -> CommError:
    rule = "all ranks of a group enter the same calls in one order, from the same lines, with types and sizes that fit"
    fix = "look in these lines for what depends on the rank: a branch, the length of a loop, a shape"
    return tell_by(CommError(refusal(where, problem, rule, offenders, fix)), min(members))


def _same(every: Sequence[Fingerprint], members: Sequence[int]) -> list[str]:
    groups = ranks_by((rank, _all(fingerprint.gives)) for rank, fingerprint in zip(members, every, strict=True))
    return [f"{_ranks(who)}: {every[0].dtype} {shapes}" for shapes, who in groups.items()] if len(groups) > 1 else []


def _pairs(
    size: Callable[[Fingerprint, int], Shape], every: Sequence[Fingerprint], members: Sequence[int]
) -> list[str]:
    offenders = []
    for j, giver in enumerate(every):
        for i, taker in enumerate(every):
            if not _fit(taker.takes[j], size(giver, i)):
                expected = f"rank {members[i]} expects {list(taker.takes[j])}"
                offenders.append(f"rank {members[j]} gives {list(size(giver, i))} where {expected}")
    return offenders


def _fit(expected: Shape, sent: Shape) -> bool:
    """Equal sizes; a reading of one dim as several is no difference."""
    if len(expected) == len(sent):
        return expected == sent
    return torch.Size(expected).numel() == torch.Size(sent).numel()


_RULES: dict[str, Callable[[Sequence[Fingerprint], Sequence[int]], list[str]]] = {
    "all_reduce": _same,
    "start_all_reduce": _same,
    "broadcast": _same,
    "reduce_scatter": _same,
    "all_gather": partial(_pairs, lambda giver, _: giver.gives[0]),
    "all_to_all": partial(_pairs, lambda giver, taker: giver.gives[taker]),
}


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _all(shapes: Sequence[Shape]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)


def _read(message: Tensor) -> list[Any]:
    said: list[Any] = json.loads(bytes(message.tolist()))
    return said


def _message(said: Sequence[Any]) -> str:
    return f"{said[1]} {list(said[2])} in {said[0]}"
