"""Copies from the first rank of a group to the others, and sums back: one binary tree, walked down or up.

In the round of span s = 1, 2, 4, ... the member at place p < s hands what it has to the one at p + s, so that after
ceil(log2 n) rounds all n have it. Walked backwards, the member at p + s hands its sum to the one at p, which adds it.
The second is the adjoint of the first, message by message: C_ab becomes S_ba. A rank may be in two groups, as the
first of one and a later member of another; both advance in the same rounds, so that nothing can wait in a circle, and
no two messages of a round go the same way between the same two ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autopar.runtime.partitions.agreement import Agreement
from autopar.runtime.partitions.partition import CopyGroups, Partition, copy_groups
from autopar.runtime.transport.base import Comm, summable


@dataclass(frozen=True, slots=True)
class Copies:
    """Tensors held once on a small partition, and their copies on a large one, as one rank sees them.

    `first` is the group that this rank is the first of, `number` the one that it has a copy in, None if none;
    ``shapes[i]`` is the shape of the tensor of group i.
    """

    comm: Comm
    groups: tuple[tuple[int, ...], ...]
    first: int | None
    number: int | None
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype

    def down(self, x: Tensor) -> Tensor:
        """This rank's copy, without elements where it has none; `x` counts on the first ranks."""
        held = {i: self._room(x, i) if at else x.contiguous() for i, at in self._mine().items()}
        for span in self._spans():
            sends, recvs = self._below(span), self._above(span)
            self.comm.exchange(
                {rank: held[i] for rank, i in sends.items()}, {rank: held[i] for rank, i in recvs.items()}
            )
        if self.number is None:
            return x.new_empty(0, dtype=self.dtype)
        return held[self.number].clone() if self.number == self.first else held[self.number]

    def up(self, y: Tensor) -> Tensor:
        """The sum of a group on its first rank, elsewhere no elements; `y` counts where copies are.

        Short floats are summed in float32, and rounded once.
        """
        sums = {} if self.number is None else {self.number: summable(y.contiguous())}
        for span in reversed(self._spans()):
            sends, recvs = self._above(span), self._below(span)
            addends = {i: summable(self._room(y, i)) for i in recvs.values()}
            self.comm.exchange(
                {rank: sums[i] for rank, i in sends.items()}, {rank: addends[i] for rank, i in recvs.items()}
            )
            for i, addend in addends.items():
                sums[i] = addend.add_(sums[i]) if i in sums else addend
        if self.first is None:
            return y.new_empty(0, dtype=self.dtype)
        total = sums[self.first]
        total = torch.view_as_complex(total) if self.dtype.is_complex else total.to(self.dtype)
        return total.clone() if len(self.groups[self.first]) == 1 else total

    def _mine(self) -> dict[int, int]:
        """The groups that this rank is in, and its place in each."""
        ours = {i: self.groups[i] for i in (self.first, self.number) if i is not None}
        return {i: group.index(self.comm.rank) for i, group in ours.items()}

    def _spans(self) -> list[int]:
        size = max((len(self.groups[i]) for i in self._mine()), default=1)
        return [1 << i for i in range((size - 1).bit_length())]

    def _below(self, span: int) -> dict[int, int]:
        """The ranks that this one hands its tensor to in a round, and in which group."""
        mine = [(self.groups[i], at, i) for i, at in self._mine().items()]
        return {group[at + span]: i for group, at, i in mine if at < span and at + span < len(group)}

    def _above(self, span: int) -> dict[int, int]:
        """The rank, if any, that hands it to this one."""
        return {self.groups[i][at - span]: i for i, at in self._mine().items() if span <= at < 2 * span}

    def _room(self, like: Tensor, i: int) -> Tensor:
        return like.new_empty(self.shapes[i], dtype=self.dtype)


def copies_from(small: Partition, large: Partition, agreed: Agreement) -> Copies:
    """The copies of what the ranks of `small` bring."""
    which = copy_groups(small, large)
    return _copies(small, large, which, tuple(agreed.shapes[group[0]] for group in which.groups), agreed)


def copies_into(small: Partition, large: Partition, agreed: Agreement) -> Copies:
    """The copies that the ranks of `large` bring, as addends. Raises ProgramMismatch where shapes of a group differ."""
    which = copy_groups(small, large)
    shapes: list[tuple[int, ...] | None] = [None] * len(which.groups)
    wrong: set[int] = set()
    for rank, i in zip(large.ranks, which.number, strict=True):
        shapes[i] = agreed.shapes[rank] if shapes[i] is None else shapes[i]
        wrong |= {i} if shapes[i] != agreed.shapes[rank] else set()
    if wrong:
        ranks = [rank for rank, i in zip(large.ranks, which.number, strict=True) if i in wrong]
        raise agreed.refuse("addends of different shapes", "the addends of one sum have one shape", ranks)
    return _copies(small, large, which, tuple(shape for shape in shapes if shape is not None), agreed)


def _copies(
    small: Partition, large: Partition, which: CopyGroups, shapes: tuple[tuple[int, ...], ...], agreed: Agreement
) -> Copies:
    number = None if large.place is None else which.number[large.place]
    return Copies(small.comm, which.groups, small.place, number, shapes, agreed.dtype)
