"""Which gradients are summed in one message: the rule that the runtime follows and the cost model prices.

Backward makes gradients in reverse order of the parameters. So parameters are taken in that order; those of one kind (the
axes of their sums, and their dtype) fill buckets of `BUCKET_BYTES`, a larger gradient has one of its own. Buckets are summed
in order of the last parameter in each, which is when they are full.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

BUCKET_BYTES = 4 << 20


def buckets(kinds: Sequence[Hashable], sizes: Sequence[int], limit: int = BUCKET_BYTES) -> list[list[int]]:
    """The parameters of each bucket, by index, in the order in which backward fills them.

    `kinds` and `sizes` (bytes) are those of the parameters, in their order; a kind of None is not summed.
    """
    filled: dict[Hashable, list[list[int]]] = {}
    room: dict[Hashable, int] = {}
    for i in reversed(range(len(sizes))):
        kind = kinds[i]
        if kind is None:
            continue
        if kind not in filled or sizes[i] > room[kind]:
            filled.setdefault(kind, []).append([])
            room[kind] = limit
        filled[kind][-1].append(i)
        room[kind] -= sizes[i]
    return sorted((bucket for several in filled.values() for bucket in several), key=lambda bucket: -bucket[-1])
