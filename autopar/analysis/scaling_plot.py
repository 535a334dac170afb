"""Scaling curves as an SVG: speed-up over ranks, both logarithmic, with the ideal line and the grid at every point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from autopar.analysis.scaling import Point

WIDTH, HEIGHT = 664, 464
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 64, 44, 552, 372
COLORS = {"strong": "#b04848", "weak": "#4878a8"}
IDEAL, LINES = "#888888", "#eeeeee"
_TICKS = 14  # labels of an axis that do not touch each other


def svg(title: str, points: Sequence[Point]) -> str:
    """The curves; points without a plan are left out."""
    shown = [point for point in points if point.plan is not None]
    most = max([point.ranks for point in shown] + [2])
    values = [point.speedup for point in shown if point.speedup > 0]
    frame = _Frame(math.log2(most), _below(min([*values, 1.0])), math.log2(max([*values, float(most)])))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 16, title, weight="bold"),
        *frame.axes(),
        *_line([frame.at(1, 1.0), frame.at(most, float(most))], IDEAL, dashed=True),
    ]
    curves = {kind: [point for point in shown if point.scaling == kind] for kind in COLORS}
    for curve in filter(None, curves.values()):
        lines += frame.curve(sorted(curve, key=lambda point: point.ranks))
    legend = [(_about(curve[0]), COLORS[kind], False) for kind, curve in curves.items() if curve]
    for place, (text, color, dashed) in enumerate([*legend, ("ideal", IDEAL, True)]):
        x, y = LEFT + 12, TOP + 16 + 16 * place
        lines += [*_line([(x, y), (x + 24, y)], color, dashed=dashed), _text(x + 30, y + 4, text)]
    return "\n".join([*lines, "</svg>\n"])


def _below(value: float) -> int:
    """The power of two at or below: one that is missed by a percent counts as reached."""
    return math.floor(math.log2(value * 1.01))


def _about(point: Point) -> str:
    if point.scaling == "strong":
        return f"strong scaling: a batch of {point.rows} on all ranks together"
    return f"weak scaling: a batch of {point.rows // point.ranks} on every rank"


class _Frame:
    """Where a number of ranks and a speed-up are in the picture."""

    def __init__(self, ranks: float, low: float, high: float) -> None:
        self.ranks, self.low, self.high = max(ranks, 1.0), low, max(high, low + 1.0)

    def at(self, ranks: int, speedup: float) -> tuple[float, float]:
        x = LEFT + PLOT_WIDTH * math.log2(ranks) / self.ranks
        return x, TOP + PLOT_HEIGHT * (self.high - math.log2(speedup)) / (self.high - self.low)

    def axes(self) -> Iterator[str]:
        bottom = TOP + PLOT_HEIGHT
        for power in _powers(0, self.ranks):
            x, _ = self.at(2**power, 1.0)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="{LINES}"/>'
            yield _text(x, bottom + 14, str(2**power), anchor="middle")
        for power in _powers(math.ceil(self.low), self.high):
            _, y = self.at(1, 2.0**power)
            yield f'<line x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LINES}"/>'
            yield _text(LEFT - 6, y + 4, f"{2.0**power:g}", anchor="end")
        yield _text(LEFT + PLOT_WIDTH / 2, bottom + 34, "ranks; at each point the grid of its plan", anchor="middle")
        yield _text(8, TOP - 10, "speed-up over one rank")

    def curve(self, points: Sequence[Point]) -> Iterator[str]:
        """A line through the best grid for every number of ranks; the others lie below it."""
        groups = [
            sorted(group, key=lambda point: -point.speedup) for _, group in groupby(points, lambda point: point.ranks)
        ]
        places = [self.at(group[0].ranks, group[0].speedup) for group in groups]
        yield from _line(places, COLORS[points[0].scaling])
        for place, group in enumerate(groups):
            before, after = places[max(place - 1, 0)], places[min(place + 1, len(places) - 1)]
            yield from (_dot(point, self.at(point.ranks, point.speedup)) for point in group)
            if group[0].ranks > 1:
                yield from _grids(group, places[place], before[1], after[1])


def _powers(low: int, high: float) -> range:
    """The powers of two that an axis names."""
    return range(low, math.floor(high) + 1, 1 + (math.floor(high) - low) // _TICKS)


def _line(points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> Iterator[str]:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = ' stroke-dasharray="4 4"' if dashed else ""
    yield f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{style}/>'


def _dot(point: Point, at: tuple[float, float]) -> str:
    assert point.plan is not None
    about = f"{point.ranks} ranks, {point.plan.grid}: {point.seconds * 1e3:.3g} ms, {point.efficiency:.0%}"
    place = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5"'
    return f'<circle {place} fill="{COLORS[point.scaling]}"><title>{escape(about)}</title></circle>'


def _grids(points: Sequence[Point], at: tuple[float, float], before: float, after: float) -> Iterator[str]:
    """The grids of points at one place, the best one next to it, where the curve does not pass.

    Its neighbours are at these heights, counted downwards. Weak scaling is the upper curve, with its grids to the left.
    """
    x, y = at
    kind = points[0].scaling
    above = before >= y if kind == "weak" else after > y
    for line, point in enumerate(points):
        assert point.plan is not None
        height = y - 6 - 9 * line if above else y + 13 + 9 * line
        side, anchor = (x - 5, "end") if kind == "weak" else (x + 5, "start")
        yield _text(side, height, point.plan.grid, anchor=anchor, size=8, color=COLORS[kind])


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    size: int = 11,
    color: str = "black",
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{color}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
