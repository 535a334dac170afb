"""Seconds of one operator call on one rank: a roofline over its local share, and what it sends inside.

    forward   max(floor, flops / rate, bytes / bandwidth),  rate = peak of the dtype * efficiency of the class of work
    backward  the same with op.backward times the flops, and with the bytes of the gradients and of what was saved

(S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.) flops of the whole call are scaled by the local
share of every split letter, bytes are those of the largest shards; an axis where nothing is split does not make the
call smaller. Where ranks differ in speed or axes are cut unevenly, the rank that takes longest counts
(`rank_views`). A product (matmul, convolution) computes one gradient per operand under its sum, and only those that
someone needs: the first layer's input asks for none. Views are free. More ranks than cores slow each other down
(`machine.crowding`), and an operator takes so many times as long as it has been seen to (`Machine.factors`). Calls that were
timed at their local shapes (`Timings`) take what they took.

Halos: a windowed letter needs rows of the operand beyond the rank's own. The rows are computed for every rank from
the bounds of the operand and of the result, and the largest number counts. The adjoint sends as many back.

Parameters: one whose storage layout on an axis is Copied has a gradient that is a sum over that axis. The runtime sums
such gradients in flat buckets while backward still runs, so a part of the time is hidden. What a whole step exposes,
max(0, sums - hidden), is not a sum over parameters; each is priced at the share 1 - `Machine.overlap` of its own sum
instead, and `autopar.planning.overlap` says with which overlap that is right.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

from autopar.costmodel.collectives import reach_of, reaches, summed_axes
from autopar.costmodel.communication import Transfer, exposed, gradient_seconds, halo_seconds
from autopar.costmodel.communication import seconds as move_seconds
from autopar.costmodel.local_shapes import local_bytes, local_part, local_shape, operand_bytes, result_bytes
from autopar.costmodel.memory import optimizer_copies, split_letters
from autopar.costmodel.op_timings import UNMEASURED, Timings
from autopar.costmodel.rank_views import views
from autopar.ir.graph import ITEMSIZE, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, cut_bounds
from autopar.ir.machine import Machine, crowding
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Choice, Rule, Window, whole_choice

_PRODUCTS = ("matmul", "conv")


def node_seconds(
    call: Call,
    rule: Rule,
    op: Op,
    choices: tuple[Choice, ...],
    grid: GridShape,
    machine: Machine,
    timings: Timings = UNMEASURED,
) -> tuple[float, float]:
    """(forward, backward) seconds of the call on the rank that takes longest, one choice per axis.

    What `timings` knows of the call is taken as it is; where ranks are not alike, by the rows that each has.
    """
    if op.work == "view":
        return 0.0, 0.0
    kinds = views(machine, grid)
    if not kinds:
        return rank_seconds(call, rule, op, choices, grid, machine, timings)
    every = [rank_seconds(call, rule, op, choices, kind.grid, machine, timings) for kind in kinds]
    forward, backward = ([each[i] / kind.speed for each, kind in zip(every, kinds, strict=True)] for i in (0, 1))
    return max(forward), max(backward)


def rank_seconds(
    call: Call,
    rule: Rule,
    op: Op,
    choices: tuple[Choice, ...],
    grid: GridShape,
    machine: Machine,
    timings: Timings = UNMEASURED,
) -> tuple[float, float]:
    """(forward, backward) seconds of the call on a rank of speed 1, the one that the grid is seen from."""
    crowded = crowding(machine, grid)
    measured = timings.of(call.node.name, choices)
    if measured is not None and grid.at is not None:
        part = local_share(rule, choices, grid) / (local_share(rule, choices, grid.balanced) or 1.0)
        measured = _of_rows(measured[0], part, machine), _of_rows(measured[1], part, machine)
    forward, backward = measured or _predicted(call, rule, op, choices, grid, machine)
    ahead, back = machine.factors(call.node.target)
    return forward * crowded * ahead, backward * crowded * back


def _of_rows(seconds: float, part: float, machine: Machine) -> float:
    """What was timed, with so much of the rows: a call's start costs as much without any."""
    started = min(seconds, machine.launch_floor)
    return started + (seconds - started) * part


def _predicted(
    call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape, machine: Machine
) -> tuple[float, float]:
    """The roofline on a core of one's own."""
    dtype = call.results[0].dtype
    rate = machine.rate(op.work, dtype)
    flops = whole_flops(call, rule, op) * local_share(rule, choices, grid) * _skew(call, rule, op, choices, grid)
    read = operand_bytes(call, choices, grid)
    written = result_bytes(call, choices, grid)
    ahead, back = _launches(call, rule, op, choices, grid)
    forward = _roofline(flops, sum(read) + sum(written), rate, machine) + ahead * machine.launch_floor
    needed = [value.differentiable for value in call.operands]
    if not any(needed) or not any(value.differentiable for value in call.results):
        return forward, 0.0
    saved = sum(read) if op.saves == "inputs" else sum(written) if op.saves == "output" else 0
    moved = (
        saved + sum(written) + sum(size for size, differentiable in zip(read, needed, strict=True) if differentiable)
    )
    rate = machine.rate(op.work, dtype, backward=True)
    computed = _roofline(flops * op.backward * _needed_share(call, rule, op), moved, rate, machine)
    return forward, computed + back * machine.launch_floor


def _skew(call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape) -> float:
    """How much more than its share of the rows a rank computes (`Op.skew`), the busiest where the grid is seen from none."""
    if op.skew is None:
        return 1.0
    skews = [
        max(op.skew(call, rule, choice.letter, *part) for part in _outermost(axis, grid))
        for axis, choice in enumerate(choices)
        if choice.mode == "split"
    ]
    return math.prod(skews)


def _outermost(axis: int, grid: GridShape) -> list[tuple[Fraction, Fraction]]:
    """The first and the last part of an axis, or that of the rank which the grid is seen from, as shares of all rows."""
    cuts, size = grid.cuts_of(axis), grid.sizes[axis]
    every = list(pairwise(map(Fraction, cuts) if cuts else [Fraction(i, size) for i in range(size + 1)]))
    return [every[0], every[-1]] if grid.at is None else [every[grid.at[axis]]]


def _launches(call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape) -> tuple[int, int]:
    """The small operations of the distributed form (`Op.launches`), forward and backward; of the axis with most of them."""
    if op.launches is None:
        return 0, 0
    return max((op.launches(call, rule, letter) for letter in split_letters(choices, grid)), default=(0, 0))


def _roofline(flops: float, nbytes: float, rate: float, machine: Machine) -> float:
    return max(machine.launch_floor, flops / rate, nbytes / machine.memory_bandwidth)


def _needed_share(call: Call, rule: Rule, op: Op) -> float:
    """The share of a product's gradients that is needed: the differentiable among operands with a summed letter."""
    if op.work not in _PRODUCTS:
        return 1.0
    kept = {letter for dims in rule.results for dim in dims for letter in dim}
    factors = [
        value.differentiable
        for value, dims in zip(call.operands, rule.operands, strict=True)
        if any(letter not in kept for dim in dims for letter in dim)
    ]
    return sum(factors) / len(factors) if factors else 1.0


def whole_flops(call: Call, rule: Rule, op: Op) -> float:
    """Forward operations of the undivided call."""
    if op.flops is not None and not rule.refused:
        return float(op.flops(call, rule))
    if op.work in (*_PRODUCTS, "attention"):
        return 2.0 * math.prod(rule.extents.values())
    return float(sum(value.numel for value in call.results if value.name))


def local_share(rule: Rule, choices: tuple[Choice, ...], grid: GridShape) -> float:
    """The share of the call's index space that a rank computes."""
    cuts: dict[str, list[tuple[int, int, int]]] = {}
    for axis, choice in enumerate(choices):
        if choice.mode == "split":
            cuts.setdefault(choice.letter, []).append((choice.blocks, choice.unit, axis))
    return math.prod(local_part(rule.extents[letter], cut, grid) / rule.extents[letter] for letter, cut in cuts.items())


def inner_conversions(
    call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape, machine: Machine
) -> tuple[Transfer, ...]:
    """What the call itself sends: halos of split windows, and what its distributed form sums (`Op.inner`), per axis."""
    transfers: list[Transfer] = []
    for axis, (choice, reach) in enumerate(zip(choices, reaches(machine, grid), strict=True)):
        if choice.mode != "split" or reach.ranks == 1:
            continue
        if choice.letter in rule.windows:
            transfers += _halos(call, rule, choices, axis, grid, machine)
        for inner in op.inner(call, rule, choice.letter) if op.inner else ():
            own = [choice if choice.letter in inner.letters else whole_choice(call, "replicate") for choice in choices]
            part = local_share(rule, tuple(own), grid)
            sizes = (inner.forward * part, inner.adjoint * part)
            if inner.primitive == "all_sum":
                seconds = [move_seconds("sum", machine, reach, float(n)) if n else 0.0 for n in sizes]
            else:
                seconds = [halo_seconds(machine, reach, float(n)) for n in sizes]
            transfers.append(Transfer(inner.primitive, axis, *sizes, seconds[0], seconds[1]))
    return tuple(transfers)


def _halos(
    call: Call, rule: Rule, choices: tuple[Choice, ...], axis: int, grid: GridShape, machine: Machine
) -> list[Transfer]:
    """The halo of every operand that carries the windowed letter; axes that cut one letter act as one long axis."""
    letter, cuts = choices[axis].letter, grid.cuts_of(axis)
    parts = math.prod(n for choice, n in zip(choices, grid.sizes, strict=True) if choice.letter == letter)
    transfers = []
    for i, (value, dims) in enumerate(zip(call.operands, rule.operands, strict=True)):
        for dim, names in enumerate(dims):
            if names == (letter,):
                rows, neighbours = halo_rows(value.shape[dim], rule.extents[letter], parts, rule.windows[letter], cuts)
                if not rows:
                    continue  # windows of one row each: nothing is sent
                local = local_shape(value.shape, tuple(choice.operands[i] for choice in choices), grid)
                size = float(rows * math.prod(local[:dim] + local[dim + 1 :]) * ITEMSIZE[value.dtype])
                seconds = halo_seconds(machine, reaches(machine, grid)[axis], size, neighbours)
                back = int(value.differentiable)
                transfers.append(Transfer("halo", axis, size, back * size, seconds, back * seconds))
    return transfers


@functools.lru_cache(maxsize=65_536)
def halo_rows(extent: int, result: int, parts: int, window: Window, cuts: tuple[float, ...] = ()) -> tuple[int, int]:
    """(rows, neighbours): the most operand rows that a rank needs from others, and from how many ranks on one side.

    `extent` and `result` are the operand's and the result's whole extents, both cut at `cuts`, or in balanced parts.

    >>> halo_rows(11, 11, 3, Window(kernel=5, padding=2))
    (4, 1)
    >>> halo_rows(10, 5, 4, Window(kernel=2, stride=2))
    (1, 1)
    """
    own, rows = np.array(cut_bounds(extent, parts, cuts)), np.array(cut_bounds(result, parts, cuts))
    begin, last = rows[:-1], rows[1:] - 1
    reach = window.dilation * (window.kernel - 1)
    if window.transposed:
        stride, padding = int(window.stride), int(window.padding)
        low, high = -((reach - begin - padding) // stride), (last + padding) // stride
    else:
        low, high = (np.floor(rows * window.stride - window.padding).astype(int) for rows in (begin, last))
        high = high + reach
    low, high = np.maximum(low, 0), np.minimum(high, extent - 1)
    active = (begin <= last) & (low <= high)
    if not active.any():
        return 0, 0
    here = np.maximum(np.minimum(high, own[1:] - 1) - np.maximum(low, own[:-1]) + 1, 0)
    foreign = np.where(active, high - low + 1 - here, 0)
    ranks = np.arange(parts)
    left = ranks - (np.searchsorted(own, low, "right") - 1)
    right = (np.searchsorted(own, high, "right") - 1) - ranks
    return int(foreign.max()), int(np.where(foreign > 0, np.maximum(left, right), 0).max())


def gradient_sums(value: Value, stored: Layouts, grid: GridShape, machine: Machine) -> tuple[Transfer, ...]:
    """One all_sum of the local gradient per axis over which it is summed; seconds are the exposed ones.

    Gradients travel in buckets with many others, so a single one pays for its bytes and not for a message of its own. The
    runtime sums over all these axes at once; an axis is said to cost what that sum costs more than the sum over the
    axes with better links.
    """
    size = float(local_bytes(value.shape, ITEMSIZE[value.dtype], stored, grid))
    summed = sorted(summed_axes(stored, grid), key=lambda axis: reach_of(machine, grid, (axis,)).across)
    transfers, before = [], 0.0
    for i, axis in enumerate(summed):
        reach = reach_of(machine, grid, tuple(sorted(summed[: i + 1])))
        total = gradient_seconds(machine, reach, size) * exposed(machine, reach)
        transfers.append(Transfer("all_sum", axis, 0.0, size, 0.0, max(total - before, 0.0)))
        before = max(total, before)
    return tuple(sorted(transfers, key=lambda transfer: transfer.axis))


def parameter_seconds(
    value: Value, kind: str, stored: Layouts, optimizer: str, grid: GridShape, machine: Machine
) -> tuple[float, float]:
    """(gradient sums, update) of a step for a tensor stored with layouts `stored`; nothing for one that is not trained.

    Where ranks are not alike, the update is that of the rank which takes longest.
    """
    if kind != "parameter":
        return 0.0, 0.0
    sums = sum(transfer.seconds for transfer in gradient_sums(value, stored, grid, machine))
    kinds = views(machine, grid)
    if not kinds:
        return sums, rank_update(value, stored, optimizer, grid, machine)
    return sums, max(rank_update(value, stored, optimizer, kind.grid, machine) / kind.speed for kind in kinds)


def rank_update(value: Value, stored: Layouts, optimizer: str, grid: GridShape, machine: Machine) -> float:
    """Seconds of the update of a parameter on a rank of speed 1, the one that the grid is seen from.

    The update of the local part reads the gradient, and reads and writes the parameter and the optimizer's state.
    """
    moved = local_bytes(value.shape, ITEMSIZE[value.dtype], stored, grid) * (3 + 2 * optimizer_copies(optimizer))
    return max(machine.launch_floor, moved / machine.update_rate(optimizer)) * crowding(machine, grid)
