"""Partitions: which ranks hold the parts of a tensor that one writes a distributed network with by hand.

A partition arranges some ranks of a communicator, in an order of one's choice, in a Cartesian array of any number of
dims. A rank of the array is active and has an index; the others are inactive and hold tensors without elements. A
tensor of the same number of dims is cut on a partition into one box per rank: dim d, of extent n, at
``even_bounds(n, shape[d])`` unless other bounds are given.

Between two partitions tensors are copied by NumPy's rules, except that only the source may have extent 1 (Hewett and
Grady, arXiv 2006.03108): the source's shape is extended on the left with ones, after which every dim of it is 1 or
that of the target. So 1 -> 2x3, 3x1 -> 3x4 and 1x1x3 -> 4x4x3 are copies, 3x4 -> 1x4 is none; sums go the other way.
``partition.transposed()`` stands for the same ranks with the dims reversed, and so for the transposed rules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.ir.grid import ravel, unravel
from autopar.ir.layout import even_bounds
from autopar.runtime.grid.grid import Axis
from autopar.runtime.transport.base import Comm

Box = tuple[tuple[int, int], ...]  # per dim the first row, and the first row that is no longer in
Bounds = tuple[tuple[int, ...], ...]  # per dim where it is cut, from 0 to its extent


@dataclass(frozen=True, slots=True)
class Partition:
    """The `ranks` of `comm`, row-major in an array of `shape`; by default the first ranks. Raises ConfigError.

    Every rank of `comm`, active or not, makes the same partition. Making one sends no message. `axes` and the sums
    over dims make communicators, once each, which `free` gives back.
    """

    comm: Comm = field(repr=False)
    shape: tuple[int, ...]
    ranks: tuple[int, ...] = ()
    _groups: dict[tuple[int, ...], Comm] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "ranks", tuple(self.ranks or range(math.prod(self.shape))))
        _check(self.shape, self.ranks, self.comm.size)

    @property
    def size(self) -> int:
        """How many ranks are active."""
        return len(self.ranks)

    @property
    def dims(self) -> int:
        """The number of dims."""
        return len(self.shape)

    @property
    def place(self) -> int | None:
        """This rank's place in `ranks`, or None where it is inactive."""
        return self.ranks.index(self.comm.rank) if self.comm.rank in self.ranks else None

    @property
    def active(self) -> bool:
        """Whether this rank is in the partition."""
        return self.comm.rank in self.ranks

    @property
    def index(self) -> tuple[int, ...] | None:
        """This rank's index in the array, or None where it is inactive."""
        place = self.place
        return None if place is None else unravel(place, self.shape)

    def transposed(self) -> Partition:
        """The same ranks with the dims in reverse: the rank at (i, j) stands at (j, i)."""
        shape = self.shape[::-1]
        places = [ravel(unravel(place, shape)[::-1], self.shape) for place in range(self.size)]
        return Partition(self.comm, shape, tuple(self.ranks[place] for place in places))

    def cut(self, shape: Sequence[int], bounds: Sequence[Sequence[int]] | None = None) -> Decomposition:
        """A tensor of `shape` cut on this partition, evenly or at the given bounds of every dim.

        A partition of a single rank holds a tensor of any number of dims whole. Raises ProgramMismatch.
        """
        parts = (1,) * len(shape) if self.size == 1 else self.shape
        _check_dims(self, shape, parts)
        if bounds is None:
            bounds = [even_bounds(n, p) for n, p in zip(shape, parts, strict=True)]
        checked = tuple(tuple(cuts) for cuts in bounds)
        _check_bounds(checked, shape, parts)
        return Decomposition(self.ranks, parts, checked)

    def part(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """This rank's rows of every dim of an evenly cut tensor: ``whole[partition.part(whole.shape)]``."""
        box = self.cut(shape).box(self.comm.rank)
        return tuple(slice(low, high) for low, high in box or ((0, 0),) * len(shape))

    def group(self, dims: Iterable[int]) -> Comm | None:
        """The ranks that agree with this one on all dims but these, ordered by them; None where it is inactive.

        The first call for the same dims is collective over all of `comm`, inactive ranks included.
        """
        inner = tuple(sorted(dims))
        index = self.index
        if inner not in self._groups:
            at = index or (0,) * self.dims
            outer = ravel([0 if dim in inner else i for dim, i in enumerate(at)], self.shape)
            order = ravel([i if dim in inner else 0 for dim, i in enumerate(at)], self.shape)
            self._groups[inner] = self.comm.split(self.size if index is None else outer, order)
        return None if index is None else self._groups[inner]

    def axes(self) -> tuple[Axis, ...]:
        """One grid axis per dim, for windows and layout conversions; none on an inactive rank. Collective."""
        comms = [self.group((dim,)) for dim in range(self.dims)]
        return tuple(Axis(f"dim{dim}", comm) for dim, comm in enumerate(comms) if comm is not None)

    def free(self) -> None:
        """Give the communicators of `group` and `axes` back."""
        for comm in self._groups.values():
            comm.free()
        self._groups.clear()

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) + f" on ranks {', '.join(map(str, self.ranks))}"


@dataclass(frozen=True, slots=True)
class Decomposition:
    """A tensor cut into one box per rank: rank ``ranks[i]``, at index ``unravel(i, parts)``, holds one of them."""

    ranks: tuple[int, ...]
    parts: tuple[int, ...]
    bounds: Bounds

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return tuple(cuts[-1] for cuts in self.bounds)

    def box(self, rank: int) -> Box | None:
        """What a rank holds; None where it holds nothing because it is not among `ranks`."""
        if rank not in self.ranks:
            return None
        index = unravel(self.ranks.index(rank), self.parts)
        return tuple((cuts[i], cuts[i + 1]) for cuts, i in zip(self.bounds, index, strict=True))


@dataclass(frozen=True, slots=True)
class CopyGroups:
    """Who copies what to whom: for every place of the small partition a group, its own rank first.

    ``number[place]`` is the group whose tensor the rank at that place of the large partition holds a copy of.
    """

    groups: tuple[tuple[int, ...], ...]
    number: tuple[int, ...]


def copy_groups(small: Partition, large: Partition) -> CopyGroups:
    """How tensors on `small` are copied onto `large`, by the rules above. Raises ConfigError with all offending dims."""
    same_comm(small, large)
    extended = (1,) * (large.dims - small.dims) + small.shape
    offenders = [
        f"dim {dim}: {a} onto {b}"
        for dim, (a, b) in enumerate(zip(extended, large.shape, strict=False))
        if a not in (1, b)
    ]
    if small.dims > large.dims:
        offenders.append(f"{small.dims} dims onto {large.dims}")
    if offenders:
        where, problem = "partition broadcast", f"no copies (or sums back) between {small} and {large}"
        rule = "the smaller one's shape, extended on the left with ones, has in every dim 1 or the larger one's extent"
        raise ConfigError(refusal(where, problem, rule, offenders, "one of them may be meant .transposed()"))
    return _spread(extended, small.ranks, large.shape, large.ranks)


@lru_cache(maxsize=256)
def _spread(
    small: tuple[int, ...], holders: tuple[int, ...], large: tuple[int, ...], ranks: tuple[int, ...]
) -> CopyGroups:
    groups = [[rank] for rank in holders]
    number = []
    for place, rank in enumerate(ranks):
        index = [0 if extent == 1 else i for i, extent in zip(unravel(place, large), small, strict=True)]
        number.append(ravel(index, small))
        if rank != holders[number[-1]]:
            groups[number[-1]].append(rank)
    return CopyGroups(tuple(map(tuple, groups)), tuple(number))


def same_comm(source: Partition, target: Partition) -> None:
    """Raises ConfigError unless both partitions are made of the ranks of one communicator."""
    if source.comm is not target.comm:
        rule = "both partitions of a primitive are made of the ranks of one communicator"
        problem = f"{source} and {target} have different ones"
        raise ConfigError(refusal("partitions", problem, rule, (), "pass the same `comm` to both"))


def one_rank(name: str, partition: Partition) -> None:
    """Raises ConfigError unless the partition is a single rank."""
    if partition.size != 1:
        rule = "the whole tensor is held by a partition of one rank, as `Partition(comm, (1,))`"
        raise ConfigError(refusal(name, f"the whole tensor on {partition}", rule, (), "repartition"))


def _check(shape: tuple[int, ...], ranks: tuple[int, ...], size: int) -> None:
    offenders = [f"dim {dim} has extent {extent}" for dim, extent in enumerate(shape) if extent < 1]
    if not offenders and len(ranks) != math.prod(shape):
        offenders.append(f"{len(ranks)} ranks for {math.prod(shape)} places")
    strangers = [str(rank) for rank in ranks if not 0 <= rank < size]
    offenders += [f"ranks {', '.join(strangers)} are not in the communicator"] if strangers else []
    offenders += [f"rank {rank} stands twice" for rank in sorted({rank for rank in ranks if ranks.count(rank) > 1})]
    if offenders:
        problem = f"shape {shape} of {len(ranks)} ranks, in a communicator of {size}"
        rule = "a partition has extents of 1 or more and a rank of its own for every place"
        fix = f"`mpiexec -n {max(ranks, default=0) + 1}`, or other ranks" if strangers else ""
        raise ConfigError(refusal("partition", problem, rule, offenders, fix))


def _check_dims(partition: Partition, shape: Sequence[int], parts: tuple[int, ...]) -> None:
    if len(shape) != len(parts):
        problem = f"a tensor of {len(shape)} dims, shape {tuple(shape)}, on {partition} of {len(parts)} dims"
        rule = "a tensor is cut on a partition of as many dims as it has"
        fix = f"a partition of shape {(1,) * len(shape)} with the extents where the tensor is to be cut"
        raise ProgramMismatch(refusal("decomposition", problem, rule, (), fix))


def _check_bounds(bounds: Bounds, shape: Sequence[int], parts: tuple[int, ...]) -> None:
    offenders = [] if len(bounds) == len(parts) else [f"{len(bounds)} dims have bounds"]
    for dim, (cuts, n, p) in enumerate(zip(bounds, shape, parts, strict=False)):
        rises = all(low <= high for low, high in itertools.pairwise(cuts))
        if len(cuts) != p + 1 or (cuts[0], cuts[-1]) != (0, n) or not rises:
            offenders.append(f"dim {dim}: {n} rows in {p} parts at {cuts}")
    if offenders:
        rule = "the bounds of a dim rise from 0 to its extent and are one more than its parts"
        raise ProgramMismatch(refusal("decomposition", f"a tensor of shape {tuple(shape)}", rule, offenders))
