"""``--microbatches auto``: into how many micro-batches a batch is divided where the memory limit asks for it.

One is best where its plan meets the limit as it is, since each further micro-batch costs its launches. Otherwise 2, 4, 8 ... are
tried beside what one does under the limit (parameters gathered for use, blocks computed again), up to one row a rank, and the
shortest predicted step is taken. Once a plan needs neither, more micro-batches only cost more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from autopar.errors import AutoparError, CaptureError, ConfigError, InfeasiblePlan
from autopar.ir.plan import Plan
from autopar.progress import Progress

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class MicrobatchCount:
    """So many micro-batches, and why."""

    microbatches: int
    why: str = ""


ONE = MicrobatchCount(1)


class PricedPlan(Protocol):
    """A compiled model: its plan, and whether that was found without a limit."""

    @property
    def plan(self) -> Plan: ...  # noqa: D102 (the class says it)
    @property
    def unlimited(self) -> bool: ...  # noqa: D102


AnyPriced = TypeVar("AnyPriced", bound=PricedPlan)


def search(rows: int, ranks: int, compile: Callable[[MicrobatchCount], AnyPriced], tell: Progress) -> AnyPriced:
    """The shortest predicted step of those that meet the limit. Raises what one micro-batch raises where none does."""
    best: AnyPriced | None = None
    first: AutoparError | None = None
    for count in counts(rows, ranks):
        try:
            one = compile(count)
        except InfeasiblePlan as error:
            first = first or error
            continue
        except (ConfigError, CaptureError) as error:
            if count.microbatches == 1:
                raise
            tell("divided", f"not into {count.microbatches}: {str(error).splitlines()[0]}", 0.0)
            continue
        if best is None or one.plan.predicted.seconds < best.plan.predicted.seconds:
            best = one
        if one.unlimited:
            break
    if best is None:
        assert first is not None, "one micro-batch is tried first, and what is no matter of memory is raised"
        raise first
    return best


def counts(rows: int, ranks: int) -> Iterator[MicrobatchCount]:
    """1, 2, 4, ... up to where micro-batches have less than a row for each of the ranks."""
    yield MicrobatchCount(1, "auto: the memory limit asks for no more")
    count = 2
    while count < rows:
        yield MicrobatchCount(count, "auto: for the memory limit")
        if count * ranks > rows:
            return
        count *= 2
