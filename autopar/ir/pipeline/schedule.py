"""What every position does in a training step, in which order: lists of actions, and their text in a program.

A model that is divided over positions is cut into *segments*, and a batch into *micro-batches*. An *action* is one segment's
work on one micro-batch: its forward (F), its backward (B), or those gradients of its weights that backward has deferred (W;
the B of the same micro-batch then computes the rest). A schedule is one list of actions per position, which it works through
in that order. Its text has one line per position; a line that begins with a blank goes on with the one before it:

    0: F0.0 F0.1 B0.0 B0.1
    1: F1.0 B1.0 F1.1 B1.1
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from autopar.errors import PlanError, refusal

KINDS = "FBW"
NAMES = {"F": "forward", "B": "backward", "W": "weight gradients"}
_ACTION = re.compile(r"([FBW])([0-9]{1,9})\.([0-9]{1,9})")
_WIDTH = 118  # a line of the text, as of a program


class Action(NamedTuple):
    """One segment's work on one micro-batch; `kind` is F, B or W.

    >>> str(Action("F", 0, 3))
    'F0.3'
    """

    kind: str
    segment: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.segment}.{self.microbatch}"

    @property
    def words(self) -> str:
        """The action in words, for messages.

        >>> Action("W", 2, 0).words
        'W2.0 (weight gradients of segment 2, micro-batch 0)'
        """
        return f"{self} ({NAMES[self.kind]} of segment {self.segment}, micro-batch {self.microbatch})"


ActionLists = tuple[tuple[Action, ...], ...]
"""A schedule: the actions of each position, in its order."""


def parse_action(text: str) -> Action:
    """The action that a word like ``F0.3`` names. Raises PlanError."""
    match = _ACTION.fullmatch(text)
    if match is None:
        rule = "an action is F, B or W, a segment, a point and a micro-batch, as in F0.3"
        raise PlanError(refusal("schedule", f"{text!r} is no action", rule, fix="write e.g. B1.0"))
    return Action(match[1], int(match[2]), int(match[3]))


def format_schedule(lists: Sequence[Sequence[Action]]) -> str:
    """The text of a schedule, wrapped; it ends with a newline where it has a position.

    >>> print(format_schedule([[Action("F", 0, 0), Action("B", 0, 0)], []]), end="")
    0: F0.0 B0.0
    1:
    """
    return "".join(f"{line}\n" for position, actions in enumerate(lists) for line in _lines(position, actions))


def _lines(position: int, actions: Sequence[Action]) -> Iterator[str]:
    head = f"{position}:"
    if not actions:
        yield head
        return
    yield from textwrap.wrap(" ".join([head, *map(str, actions)]), _WIDTH, subsequent_indent=" " * (len(head) + 1))


def parse_schedule(text: str) -> ActionLists:
    """The lists that a text like `format_schedule`'s says; positions are numbered from 0 on, in order.

    Empty lines and the blanks that all lines begin with count for nothing. Raises PlanError that names the line.
    """
    lists: list[list[Action]] = []
    for line in textwrap.dedent(text).splitlines():
        head, colon, rest = line.partition(":")
        if colon:
            if head.strip() != str(len(lists)):
                fix = f"write {len(lists)}: before the actions of position {len(lists)}"
                raise PlanError(
                    refusal("schedule", f"line {line.strip()!r}", "positions are numbered 0, 1, ... in order", fix=fix)
                )
            lists.append([])
        else:
            rest = line
        if rest.strip() and not lists:
            rule = "a line begins with its position and a colon, as in 0: F0.0 B0.0"
            raise PlanError(refusal("schedule", f"line {line.strip()!r}", rule, fix="write 0: before the first action"))
        if lists:
            lists[-1].extend(parse_action(word) for word in rest.split())
    return tuple(map(tuple, lists))
