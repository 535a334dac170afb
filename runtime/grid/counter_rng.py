"""Random numbers by their place in the whole tensor: the same on any grid, the same on all replicas.

Each call of a random operator has a number within its training step, and each element of a tensor a place. The whole
tensor is read as cells, runs of about 16 thousand neighbouring elements, and a cell's numbers come from torch's own
generator, seeded by

    (seed of the job, step, call within the step, cell)

So a rank draws the cells that its part touches and keeps its part of them: replicas agree, shards differ, a boundary that
moves changes nothing, and a run on any grid draws what the undivided model draws. Only where a dim within a cell is
split (features) do ranks draw numbers that others keep. Bernoulli numbers are 32 random bits below a threshold, which
is several times faster than `torch.bernoulli` on a CPU.

A step is a context, ``with drawing(seed, step): ...``, which `autopar.runtime.Parallel` opens around forward. Backward
draws nothing: what it needs was saved; where `recompute` computes forward again there, it draws the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.shard_positions import BATCH, BatchRows, Over, Rows, rows_of, take_rows, whole_shape
from autopar.runtime.transport.world import simulated_world

CELL = 2**14  # elements: seeding a generator takes as long as drawing a few hundred
CELLS = 256  # or more elements, so that a large tensor has about so many cells
_MASK = 2**64 - 1

Sampler = Callable[[Tensor, torch.Generator], object]
DrawnTensor = tuple[str, tuple[int, ...]]  # the kind of a random tensor, and its whole shape


class Draws:
    """The random numbers of one step: its seed, and what was drawn so far, by kind and shape of the whole tensor.

    `numbers` are those of the calls that draw: all of them, or the first of consecutive ones. `rows` are those of the batch that
    are computed, None where all are.
    """

    def __init__(
        self, seed: int, training: bool = True, numbers: int | Sequence[int] = 0, rows: BatchRows | None = None
    ) -> None:
        self.seed = seed
        self.rows = rows
        self.training = training
        self._numbers = numbers
        self.calls = 0
        self.drawn: list[DrawnTensor] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    def number(self) -> int:
        """The number of the next call within the step."""
        return self._numbers + self.calls if isinstance(self._numbers, int) else self._numbers[self.calls]

    def part_seed(self) -> int:
        """A seed for what is computed: the step's own, or one of its own for another part of the step."""
        numbers = self._numbers
        first = numbers if isinstance(numbers, int) else min(numbers, default=0)
        start = 0 if self.rows is None else self.rows.start
        return _mixed(_mixed(self.seed, first), start) if first or start else self.seed

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator to seed; one per device."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device]


_STEP: ContextVar[Draws | None] = ContextVar("step", default=None)


@contextmanager
def drawing(
    seed: int, step: int, training: bool = True, numbers: int | Sequence[int] = 0, rows: BatchRows | None = None
) -> Iterator[Draws]:
    """A training step, in which random operators may be called. Outside `training`, dropout drops nothing.

    A part of a step says by `numbers` which of the step's random calls it makes, see `Draws`; a micro-batch by `rows` which of the
    batch's, so that its numbers are those of its rows in the whole batch.

    Operators that draw from torch's default generator find it seeded alike on all ranks, and it is put back afterwards;
    simulated ranks share theirs, and leave it as it is.
    """
    draws = Draws(_mixed(seed, step), training, numbers, rows)
    token = _STEP.set(draws)
    own = simulated_world() is None
    state = torch.get_rng_state() if own else torch.empty(0)
    try:
        if own:
            torch.default_generator.manual_seed(draws.part_seed())
        yield draws
    finally:
        if own:
            torch.set_rng_state(state)
        _STEP.reset(token)


def current() -> Draws:
    """The running step. Raises ConfigError where there is none."""
    draws = _STEP.get()
    if draws is None:
        rule = "random operators draw by the number of the step, so that all ranks agree"
        fix = "call them inside `with drawing(seed, step)`, and recompute by `autopar.runtime.local.recompute`"
        raise ConfigError(refusal("random numbers", "drawn outside of a training step", rule, fix=fix))
    return draws


def skipped() -> bool:
    """Whether a dropout drops nothing, in evaluation. It takes its number among the step's calls all the same."""
    draws = current()
    draws.calls += not draws.training
    return not draws.training


def draw(
    kind: str, sampler: Sampler, shape: Sequence[int], over: Over, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """This rank's part, of `shape`, of a random tensor; `sampler` fills a flat tensor from a generator.

    `over` gives the places of the dims that are split. Every rank makes the same calls in the same order.
    """
    draws = current()
    whole = whole_shape(shape, over)
    rows: list[Rows] = [rows_of(over[dim]) if dim in over else range(n) for dim, n in enumerate(whole)]
    if draws.rows is not None and BATCH in over:
        dim, *reading = (over[BATCH],) if isinstance(over[BATCH], int) else over[BATCH]
        extent, rows[dim] = draws.rows.placed(whole[dim], rows[dim], *reading)
        whole = (*whole[:dim], extent, *whole[dim + 1 :])
    key = _mixed(draws.seed, draws.number())
    draws.calls += 1
    draws.drawn.append((kind, whole))
    if not math.prod(shape):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return _cells(sampler, whole, rows, key, draws.generator(device), dtype)


def cut(whole: Sequence[int]) -> tuple[int, int]:
    """(dim, run): a cell is `run` neighbouring rows of `dim` with all dims behind it, one index of each before it.

    >>> cut((8, 256, 768))
    (1, 21)
    >>> cut((6, 5))
    (0, 3276)
    """
    size = max(CELL, math.prod(whole) // CELLS)
    dim, inner = len(whole) - 1, 1
    while dim > 0 and inner * whole[dim] <= size:
        inner *= whole[dim]
        dim -= 1
    return dim, max(1, size // inner)


def _cells(
    sampler: Sampler,
    whole: Sequence[int],
    rows: Sequence[Rows],
    key: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Draw the cells that the rows touch, and take the rows."""
    if not whole:
        whole, rows = (1,), (range(1),)
        return _cells(sampler, whole, rows, key, generator, dtype).reshape(())
    dim, run = cut(whole)
    run = min(run, whole[dim])
    inner = whole[dim + 1 :]
    groups = -(-whole[dim] // run)
    touched, places = _touched(rows[dim], run)
    size = run * math.prod(inner)
    outer = list(itertools.product(*(r if isinstance(r, range) else r.tolist() for r in rows[:dim])))
    room = torch.empty(len(outer), len(touched), size, dtype=dtype, device=generator.device)
    for i, index in enumerate(outer):
        first = 0
        for n, at in zip(whole, index, strict=False):
            first = first * n + at
        for j, group in enumerate(touched):
            generator.manual_seed(_mixed(key, first * groups + group))
            sampler(room[i, j], generator)
    drawn = room.view(len(outer), len(touched) * run, *inner)
    drawn = take_rows(drawn, 1, places)
    for at, dim_rows in enumerate(rows[dim + 1 :]):
        drawn = take_rows(drawn, at + 2, dim_rows)
    return drawn.reshape(*map(len, rows[:dim]), *drawn.shape[1:])


def _touched(rows: Rows, run: int) -> tuple[Sequence[int], Rows]:
    """The groups of `run` rows in which rows lie, and the rows' places among these groups' rows."""
    if isinstance(rows, range):
        first = rows.start // run
        return range(first, -(-rows.stop // run)), range(rows.start - first * run, rows.stop - first * run)
    groups, place = torch.unique(rows // run, return_inverse=True)
    return groups.tolist(), place * run + rows % run


def _mixed(key: int, number: int) -> int:
    """A seed from two numbers (the finalizer of splitmix64: S. Vigna, 2015)."""
    x = (key * 0x9E3779B97F4A7C15 + number + 1) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return (x ^ x >> 31) & (2**63 - 1)


@contextmanager
def replaying(draws: Draws, start: int) -> Iterator[None]:
    """The step of `draws` once more, from its call number `start` on; afterwards it counts on from where it was."""
    token = _STEP.set(draws)
    before, draws.calls = draws.calls, start
    count = len(draws.drawn)
    try:
        yield
    finally:
        del draws.drawn[count:]
        draws.calls = before
        _STEP.reset(token)
