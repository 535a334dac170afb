"""A step of a divided program as its ranks have measured it, as it stands in ``build/timeline.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autopar.errors import ConfigError, refusal
from autopar.ir.pipeline.schedule import parse_action
from autopar.ir.profile import digest

VERSION = 2
FILE = "timeline.json"


@dataclass(frozen=True, slots=True)
class MeasuredAction:
    """An action of a rank's list, in seconds from the beginning of its step; `waited` of them for messages."""

    action: str
    start: float
    end: float
    waited: float

    @property
    def work(self) -> float:
        """Seconds without waits."""
        return self.end - self.start - self.waited


@dataclass(frozen=True, slots=True)
class MeasuredRank:
    """One rank's actions, in their order; and the most bytes that it held through another step (0: that was not measured)."""

    rank: int
    position: int
    actions: tuple[MeasuredAction, ...]
    peak: int = 0

    @property
    def work(self) -> float:
        """Seconds of all actions without waits."""
        return sum(action.work for action in self.actions)


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """The step of a run whose length, `seconds`, is the median; what was moved before it, in words."""

    version: int
    program_sha256: str
    seconds: float
    ranks: tuple[MeasuredRank, ...]
    moves: tuple[str, ...] = ()

    @property
    def after(self) -> float:
        """Seconds from the end of the last action to that of the step: sums of gradients, and the update."""
        return max(0.0, self.seconds - max(action.end for rank in self.ranks for action in rank.actions))

    def slowest(self, position: int) -> MeasuredRank:
        """The rank of a position that has worked longest."""
        return max((rank for rank in self.ranks if rank.position == position), key=lambda rank: rank.work)

    def peak(self, position: int) -> int:
        """The most bytes that a rank of a position held."""
        return max(rank.peak for rank in self.ranks if rank.position == position)


def to_json(step: MeasuredStep) -> str:
    """The text of the file."""
    import msgspec  # a program that is not profiled does not load it

    return msgspec.json.encode(step).decode() + "\n"


def load_step(folder: Path, program: str, positions: int, file: Path | None = None) -> MeasuredStep:
    """The step in a compiled folder, or in a `file` elsewhere, whose program has this text.

    Raises ConfigError where there is none of it.
    """
    import msgspec

    file, rule = file or folder / FILE, "a plan is compared with a run of its own program"
    fix = f"run `autopar run {folder} --profile`"
    if not file.is_file():
        raise ConfigError(refusal(str(file), "there is none", rule, fix=f"{fix} first"))
    try:
        step = msgspec.json.decode(file.read_bytes(), type=MeasuredStep)
        for rank in step.ranks:
            for action in rank.actions:
                parse_action(action.action)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ConfigError(refusal(str(file), f"damaged: {error}", rule, fix=f"{fix} again")) from error
    if step.version != VERSION or {rank.position for rank in step.ranks} != set(range(positions)):
        raise ConfigError(refusal(str(file), "of another release or grid", rule, fix=f"{fix} again"))
    if step.program_sha256 != digest(program):
        raise ConfigError(refusal(str(file), "of another program", rule, fix=f"{fix} again"))
    return step
