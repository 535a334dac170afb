"""What a profiled run has measured, as it stands in ``build/profile.json``. No code, no pickle.

    Expression   an expression of the program that was timed, and the place of the plan that it is
    Piece        what one rank did there, in one round of a loop, of one kind: seconds and bytes sent in a step, medians
    Bucket       one sum of gradients: when it was under way, and for how long its rank had to wait for it
    RankProfile  all of one rank, with the spans of the step whose length is the median
    Profile      all ranks, and the hashes of the program and the plan that ran

The seconds of a rank's pieces are disjoint: at every moment of a step exactly one piece is at work.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from autopar.errors import ConfigError, refusal
from autopar.version import __version__

VERSION = 1
FILE = "profile.json"
LEAST = 4  # steps of a run: one to warm up, one for memory, one profiled and one not
KINDS = (
    "forward",  # an expression of the program
    "backward",  # the autograd nodes that it has made
    "communication",  # inside communication calls, forward
    "adjoint",  # the same in backward
    "gradients",  # gradients copied into their buckets, sums begun
    "wait",  # for sums of gradients when backward has ended
    "update",  # the optimizer
    "inputs",  # the batch is checked and cut
    "other",  # zero_grad, reading the loss, loops
    "profiling",  # what the profile itself costs, as far as it sees it
)
_AGAIN = "run `autopar run FOLDER --profile` again"


@dataclass(frozen=True, slots=True)
class Expression:
    """Where it stands in the program, its text, and which of the plan's places it is (None where of none)."""

    function: str
    line: int
    column: int
    text: str
    place: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Seconds and bytes sent in one step, medians over the profiled steps; `expression` is a place in the list, or None."""

    kind: str
    expression: int | None
    round: int
    seconds: float
    sent: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A sum of gradients of so many bytes: seconds under way, and seconds waited for it, medians."""

    bytes: int
    flight: float
    exposed: float


@dataclass(frozen=True, slots=True)
class RankProfile:
    """One rank. `steps` are the seconds of the profiled steps, `plain` of those between them that were not.

    `spans` are (piece, start, end) and `flights` (bucket, start, end) of one step, in seconds from its beginning. `peak` is
    the most memory held at once, in bytes, 0 where it was not measured.
    """

    rank: int
    host: str
    steps: tuple[float, ...]
    plain: tuple[float, ...]
    pieces: tuple[Piece, ...]
    buckets: tuple[Bucket, ...]
    spans: tuple[tuple[int, float, float], ...]
    flights: tuple[tuple[int, float, float], ...]
    peak: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What all ranks have measured of one program; `moves` of boundaries before that, in words."""

    version: int
    autopar: str
    program_sha256: str
    plan_sha256: str
    grid: str
    expressions: tuple[Expression, ...]
    ranks: tuple[RankProfile, ...]
    moves: tuple[str, ...] = ()


def to_json(profile: Profile) -> str:
    """The profile as JSON text."""
    import msgspec  # a program that is not profiled does not load it

    return msgspec.json.encode(profile).decode() + "\n"


def from_json(text: str, where: str) -> Profile:
    """Read a profile. Raises ConfigError where the text is damaged, or another schema version wrote it."""
    import msgspec  # a program that is not profiled does not load it

    try:
        head = msgspec.json.decode(text, type=dict[str, object])
        if head.get("version") != VERSION:
            fault = f"schema version {head.get('version')!r}"
            raise ConfigError(refusal(where, fault, f"this release reads version {VERSION}", fix=_AGAIN))
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _damaged(where, str(error)) from error
    _check(profile, where)
    return profile


def _check(profile: Profile, where: str) -> None:
    """Refuse what no run has written: places and pieces that are not there, negative times."""
    count = len(profile.expressions)
    if [rank.rank for rank in profile.ranks] != list(range(len(profile.ranks))) or not profile.ranks:
        raise _damaged(where, "its ranks are not 0, 1, ...")
    for rank in profile.ranks:
        wrong = [piece for piece in rank.pieces if piece.kind not in KINDS or not _is_time(piece.seconds)]
        wrong += [piece for piece in rank.pieces if not 0 <= (piece.expression or 0) < max(count, 1)]
        lost = [span for span in rank.spans if not (0 <= span[0] < len(rank.pieces) and span[1] <= span[2])]
        lost += [span for span in rank.flights if not (0 <= span[0] < len(rank.buckets) and span[1] <= span[2])]
        if wrong or lost or not rank.steps or not all(map(_is_time, (*rank.steps, *rank.plain))):
            raise _damaged(where, f"rank {rank.rank} says what cannot be: {(wrong or lost or rank.steps)[:1]}")


def _is_time(seconds: float) -> bool:
    return 0 <= seconds < float("inf")


def _damaged(where: str, why: str) -> ConfigError:
    return ConfigError(refusal(where, f"damaged: {why}", "a profile is what `autopar run --profile` wrote", fix=_AGAIN))


def digest(text: str) -> str:
    """The hash by which a profile knows its program and its plan."""
    return hashlib.sha256(text.encode()).hexdigest()


def load_profile(folder: Path, program: str, plan: str, ranks: int, file: Path | None = None) -> Profile:
    """The profile in a compiled folder, or in a `file` elsewhere, whose program and plan have these texts.

    Raises ConfigError where there is none, where it is damaged, or where it is of another program, plan or number of ranks.
    """
    file = file or folder / FILE
    rule = "a plan is compared with a profile of its own program"
    if not file.is_file():
        fix = f"run `autopar run {folder} --profile` first"
        raise ConfigError(refusal(str(file), "there is no profile yet", rule, fix=fix))
    try:
        profile = from_json(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(str(file), str(error)) from error
    stale = []
    if profile.program_sha256 != digest(program):
        stale.append("program.py has changed since it was profiled")
    if profile.plan_sha256 != digest(plan):
        stale.append("plan.json has changed since it was profiled")
    if len(profile.ranks) != ranks:
        stale.append(f"it is of {len(profile.ranks)} ranks, and the grid has {ranks}")
    if profile.autopar != __version__:
        stale.append(f"autopar {profile.autopar} wrote it, and this is {__version__}")
    if stale:
        fix = f"run `autopar run {folder} --profile` again"
        raise ConfigError(refusal(str(file), "stale", rule, stale, fix))
    return profile
