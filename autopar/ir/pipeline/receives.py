"""How far receives are posted ahead of the actions that need them: the rule that the runtime follows and memory is predicted by.

A message that comes early then has its place, and a large one need not wait for its receiver.
"""

from __future__ import annotations

from collections.abc import Sequence

_ACTIONS = 4
_BYTES = 32 << 20  # of receives that are posted and not waited for; those of the next action always are


def may_post(posted: int, now: int, nbytes: int) -> bool:
    """Whether the receives of one action more are posted before action number `now` of a list.

    Those of the first `posted` actions are, of which so many bytes have not been waited for.
    """
    return posted < now + _ACTIONS and (posted <= now or nbytes < _BYTES)


def posted_at(needed: Sequence[int]) -> list[int]:
    """For every action of a list, the number of the one before which its receives are posted; `needed` are their bytes."""
    found: list[int] = []
    for now in range(len(needed)):
        while len(found) < len(needed) and may_post(len(found), now, sum(needed[now : len(found)])):
            found.append(now)
    return found
