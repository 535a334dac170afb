"""A run of windowed layers on split spatial dims, after one exchange that is wide enough for all of them.

Along a split dim, with n_0 rows before and n_l rows behind layer l of L, a rank owns the result rows
R_L = [b_i, b_i+1) of ``axis.bounds(n_L)``. Backwards through the layers,

    P_l = the positions that rows R_l read          `ReceptiveField.reads`
    R_l-1 = the rows that they show                 `shown`: without those of the padding, mirrored where the mode says

and so R_0 is what is fetched, once; then every layer makes its rows R_l from exactly its rows R_l-1, continued to P_l by
its own padding where they end at the boundary of the whole. Rows that several ranks need are made by each of them.

The gradient stays exact: each rank's copy of such a row reaches the loss through that rank's own result rows alone,
so the parts of its gradient on all ranks add up to the whole gradient, and so do the addends of the weights'
gradients. The exchange's adjoint adds up what belongs to one row of x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.errors import ConfigError, refusal
from autopar.runtime.grid.exchange_plan import Interval, Intervals
from autopar.runtime.grid.grid import Axis
from autopar.runtime.primitives.empty import zeros_from
from autopar.runtime.primitives.halo import halo
from autopar.runtime.windowed.receptive_field import ReceptiveField, check_mode, inside, shown, shown_row
from autopar.runtime.windowed.window_layers import Block, WindowLayer

Over = Mapping[int, tuple[Axis, int]]  # split dim of the operand -> its axis and whole extent
Pointwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LayerStep:
    """One layer along one dim on one rank: the rows `result` read `positions`, which show `held` of `extent` rows."""

    extent: int
    held: Intervals
    positions: Interval
    result: Interval


@dataclass(frozen=True, slots=True)
class Route:
    """A run of layers along one dim: the steps by rank, then by layer, and what every rank wants of the exchange."""

    steps: tuple[tuple[LayerStep, ...], ...]
    fetched: tuple[Intervals, ...]  # with the positions of padding that shows no row, which is filled in on the way


def wide(x: Tensor, layers: Sequence[WindowLayer | Pointwise], over: Over | None = None) -> Tensor:
    """The layers one after another on ``x`` [batch, channel, *space], with one halo exchange per split dim before all.

    `over` names the split spatial dims of `x`, each with its axis and whole extent; the result is split over the same
    axes, at ``axis.bounds`` of its own extents. A layer that is no `WindowLayer` is a function of each row by itself, the
    same on every rank: an activation, a bias, a scale by channel (but no dropout, no normalization over space). The
    gradients of weights are this rank's addends. Raises ConfigError where a layer does not fit, and for circular
    padding behind the first windowed layer.
    """
    windowed = [layer for layer in layers if isinstance(layer, WindowLayer)]
    first = x.dim() - (windowed[0].spatial if windowed else 0)
    places = sorted((over or {}).items()) if windowed else ()
    routes = {dim: routes_of(windowed, dim - first, *place) for dim, place in places}
    at = 0
    for layer in layers:
        if isinstance(layer, WindowLayer):
            x = _layer(x, layer, at, routes, over or {})
            at += 1
        else:
            x = _pointwise(x, layer, first)
    return x


def routes_of(layers: Sequence[WindowLayer], i: int, axis: Axis, extent: int) -> Route:
    """The steps of every rank through these layers along spatial dim `i`. Raises ConfigError."""
    n, reaches = extent, []
    for at, layer in enumerate(layers):
        where = f"layer {at} ({type(layer).__name__}), spatial dim {i}, over axis {axis.name}"
        if layer.spatial != layers[0].spatial or not 0 <= i < layer.spatial:
            rule = "all layers of a run have the same spatial dims, the operand's last, and `over` names some of them"
            raise ConfigError(refusal(where, f"has {layer.spatial} spatial dims", rule))
        reaches.append(layer.reach(i, n))
        check_mode(where, layer.mode, reaches[-1], n)
        if at and layer.mode == "circular" and any(reaches[-1].margins(n)):
            fix = "begin another run with this layer"
            rule = "rows from the other end come by an exchange, and a run has one, before its first windowed layer"
            raise ConfigError(refusal(where, "has circular padding", rule, (), fix))
        n = reaches[-1].extent(n)
    return route(tuple(reaches), tuple(layer.mode for layer in layers), extent, axis.bounds(n))


@lru_cache(maxsize=1024)
def route(reaches: tuple[ReceptiveField, ...], modes: tuple[str, ...], extent: int, bounds: tuple[int, ...]) -> Route:
    """The steps of every rank through the layers, along one dim: rank i ends with rows ``bounds[i]:bounds[i+1]``."""
    extents = [extent]
    for reach in reaches:
        extents.append(reach.extent(extents[-1]))
    every = []
    for result in itertools.pairwise(bounds):
        steps: list[LayerStep] = []
        for n, reach, mode in zip(extents[-2::-1], reversed(reaches), reversed(modes), strict=True):
            positions = reach.reads(n, result) if result[0] < result[1] else (0, 0)
            rows = positions if mode != "zeros" or positions == (0, 0) else inside(positions, n)[1]
            held = shown(rows, n, mode)
            steps.append(LayerStep(n, held, positions, result))
            result = held[0] if held else (0, 0)
        every.append(tuple(reversed(steps)))
    return Route(tuple(every), tuple(shown(steps[0].positions, extent, modes[0]) for steps in every))


def _layer(x: Tensor, layer: WindowLayer, at: int, routes: Mapping[int, Route], over: Over) -> Tensor:
    """One windowed layer, the exchange included if it is the first."""
    first = x.dim() - layer.spatial
    blocks = []
    for dim in range(first, x.dim()):
        if dim not in routes:
            x, block = _whole(x, layer, dim, first)
            blocks.append(block)
            continue
        axis, extent = over[dim]
        step = routes[dim].steps[axis.index][at]
        if at == 0:
            x = halo(x, dim, axis, extent, routes[dim].fetched, layer.fill())
        if at or layer.mode != "zeros":
            x = _continued(x, dim, step, layer.mode, layer.fill())
        blocks.append(Block(step.extent, step.result, ready=True))
    shape = tuple(block.count for block in blocks)
    if x.numel() and math.prod(shape) and all(weight.numel() for weight in layer.learned()):
        return layer.run(x, blocks)
    lead = (*x.shape[: first - 1], layer.channels(x.shape[first - 1])) if first else ()
    return _nothing((*lead, *shape), layer, x)


def _whole(x: Tensor, layer: WindowLayer, dim: int, first: int) -> tuple[Tensor, Block]:
    """A dim that is not split: padding with zeros is torch's, other padding is done here."""
    n = x.shape[dim]
    reach = layer.reach(dim - first, n)
    rows = (0, reach.extent(n))
    if layer.mode == "zeros" or not rows[1]:
        return x, Block(n, rows, ready=False)
    check_mode(f"{type(layer).__name__}, dim {dim}", layer.mode, reach, n)
    step = LayerStep(n, ((0, n),), reach.reads(n, rows), rows)
    return _continued(x, dim, step, layer.mode, 0.0), Block(n, rows, ready=True)


def _continued(x: Tensor, dim: int, step: LayerStep, mode: str, value: float) -> Tensor:
    """The operand at the step's positions, where `x` has the rows that they show."""
    (start, stop), n = step.positions, step.extent
    before, (low, high), after = inside(step.positions, n)
    if mode == "zeros":
        return F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [before, after], value=value) if before or after else x
    ring = mode == "circular" and stop - start <= n and step.held == shown(step.positions, n, mode)
    if ring or step.held in ((), (step.positions,)):
        return x  # on a ring that was fetched, the pieces lie in the order of the positions already
    base = step.held[0][0]
    parts = [_shown(x, dim, range(start, start + before), n, mode, base)] if before else []
    parts += [x.narrow(dim, low - base, high - low)] if low < high else []
    parts += [_shown(x, dim, range(stop - after, stop), n, mode, base)] if after else []
    return torch.cat(parts, dim)


def _shown(x: Tensor, dim: int, positions: range, n: int, mode: str, base: int) -> Tensor:
    rows = [shown_row(position, n, mode) - base for position in positions]
    return x.index_select(dim, torch.tensor(rows, device=x.device))


def _pointwise(x: Tensor, function: Pointwise, first: int) -> Tensor:
    y = function(x)
    if y.dim() != x.dim() or y.shape[first:] != x.shape[first:]:
        name = getattr(function, "__name__", repr(function))
        problem = f"makes shape {tuple(y.shape)} of shape {tuple(x.shape)}"
        raise ConfigError(refusal(f"layer {name}", problem, "a function among the layers keeps the spatial dims"))
    return y


def _nothing(shape: tuple[int, ...], layer: WindowLayer, x: Tensor) -> Tensor:
    """The result where there is nothing to sum over or nothing to compute: zeros plus the bias."""
    weights, bias = layer.learned()[:1], layer.learned()[1:]
    y = zeros_from(shape, x, *weights)
    return y + bias[0].view(-1, *[1] * layer.spatial) if bias else y
