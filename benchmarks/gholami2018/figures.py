"""The bars of the paper's figures: communication by equations 3 to 9, compute as published, seconds of one epoch.

Each panel is computed in up to three readings:

    drawn      the equations with the deviations that reproduce the published bars (`settings.Deviations`)
    equations  the same parallelisation by the equations as they are printed
    text       what the text says where the bars show something else: figure 6 by equation 8 on all layers (the bars
               have halos in the convolutions); figure 8 with two thirds of communication and of compute overlapping
               (the bars hide the whole sum of gradients behind the whole compute, and nothing else)

Elsewhere `text` is the same as `equations`. The two summands of a bar are those of the legend: `batch` sums gradients,
`model` is gathers, sums and halos along the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.gholami2018 import equations
from benchmarks.gholami2018.equations import Layer
from benchmarks.gholami2018.settings import Panel, Paper

Reading = Literal["drawn", "equations", "text"]
READINGS: tuple[Reading, ...] = ("drawn", "equations", "text")
_BACKWARD = 2 / 3  # of a step's compute and of its communication, by the paper's count


@dataclass(frozen=True, slots=True)
class Bar:
    """Seconds of one epoch on a grid of `rows` x `columns`."""

    rows: int
    columns: int
    compute: float
    batch: float
    model: float

    @property
    def grid(self) -> str:
        """As the paper labels it.

        >>> Bar(4, 8, 1.0, 2.0, 3.0).grid
        '4x8'
        """
        return f"{self.rows}x{self.columns}"

    @property
    def communication(self) -> float:
        """What is not compute."""
        return self.batch + self.model

    @property
    def total(self) -> float:
        """The whole bar."""
        return self.compute + self.batch + self.model


@dataclass(frozen=True, slots=True)
class Match:
    """How computed bars compare with the published ones.

    `total` and `communication` are the largest distances of the two heights in pixels, `split` that of the line between
    the two summands. `grid`, `speedup` and `communication_speedup` say whether the annotations come out.
    """

    total: float
    communication: float
    split: float
    grid: bool
    speedup: bool
    communication_speedup: bool


def bars(paper: Paper, panel: Panel, reading: Reading = "drawn") -> tuple[Bar, ...]:
    """The bars of a panel, one per grid."""
    steps = paper.images / panel.batch
    compute = panel.compute * panel.pixel
    found = []
    for rows, columns in panel.grids:
        batch, model = (steps * seconds for seconds in _step(paper, panel, rows, columns, reading))
        if panel.overlap and reading == "text":
            batch, model = _overlapped(compute, batch, model)
        elif panel.overlap:
            batch = max(0.0, batch - compute)
        found.append(Bar(rows, columns, compute, batch, model))
    return tuple(found)


def published(panel: Panel) -> tuple[Bar, ...]:
    """The digitised bars."""
    return tuple(
        Bar(rows, columns, *(pixels * panel.pixel for pixels in bar))
        for (rows, columns), bar in zip(panel.grids, panel.bars, strict=True)
    )


def best(several: Sequence[Bar]) -> Bar:
    """The bar with the least total."""
    return min(several, key=lambda bar: bar.total)


def speedups(several: Sequence[Bar]) -> tuple[float, float]:
    """Total and communication of the first bar over those of the best one; 1 where neither communicates."""
    first, least = several[0], best(several)
    ratio = first.communication / least.communication if least.communication else 1.0
    return first.total / least.total, ratio


def match(panel: Panel, several: Sequence[Bar]) -> Match:
    """Compare computed bars with the panel."""
    pairs = list(zip(several, published(panel), strict=True))
    total, communication = speedups(several)
    return Match(
        max(abs(ours.total - theirs.total) for ours, theirs in pairs) / panel.pixel,
        max(abs(ours.communication - theirs.communication) for ours, theirs in pairs) / panel.pixel,
        max(abs(ours.batch - theirs.batch) for ours, theirs in pairs) / panel.pixel,
        best(several).grid == panel.best,
        _comes_out(total, panel.speedup),
        _comes_out(communication, panel.communication_speedup),
    )


def _comes_out(value: float, annotated: float | None) -> bool:
    """Whether a number, rounded or cut to one digit (the paper does both), is the annotated one; None is not annotated."""
    return annotated is None or annotated in (round(value, 1), math.floor(value * 10) / 10)


def _step(paper: Paper, panel: Panel, rows: int, columns: int, reading: Reading) -> tuple[float, float]:
    """Seconds of one step for gradients' sums, and for gathers, sums and halos along the rows."""
    wire, word = paper.wire, paper.word_bytes
    parts = panel.image_parts or rows
    images = panel.batch / columns
    model_layers, domain_layers = paper.connected, paper.convolutions
    if reading == "text" and panel.text == "model":
        model_layers, domain_layers = (*domain_layers, *model_layers), ()
    batch = equations.batch(domain_layers, wire, panel.ranks, word)
    batch += equations.batch(model_layers, wire, columns, word, parts=rows)
    model = equations.model(model_layers, wire, images, rows, word)
    per_column = panel.batch * parts / panel.ranks
    if reading != "drawn":
        return batch, model + equations.halo(domain_layers, wire, per_column, parts, word)
    halo = equations.halo(_wide(paper, domain_layers), wire, per_column, parts, word)
    moved = [layer for layer in model_layers if layer.name in paper.drawn.redistributed]
    model += sum(equations.redistribution(layer, wire, images, rows, word) for layer in moved)
    return batch, model + paper.drawn.halo_times * halo


def _wide(paper: Paper, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with the input widths of which the drawn halos are taken."""
    widths = paper.drawn.input_width
    return tuple(replace(layer, input=(*layer.input[:2], widths.get(layer.name, layer.input[2]))) for layer in layers)


def _overlapped(compute: float, batch: float, model: float) -> tuple[float, float]:
    """What of each summand is seen where the backward's share of both hides behind the backward's compute."""
    whole = batch + model
    hidden = min(_BACKWARD * whole, _BACKWARD * compute)
    left = 1 - hidden / whole if whole else 0.0
    return batch * left, model * left
