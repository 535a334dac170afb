"""Scaling curves as an SVG: speed-up over ranks, both logarithmic, with the ideal line and the grid at every point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from autopar.scaling import Point

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
    told = [(_about(curve[0]), COLORS[kind], False) for kind, curve in curves.items() if curve]
    for place, (text, color, dashed) in enumerate([*told, ("ideal", IDEAL, True)]):
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
        places = [self.at(point.ranks, point.speedup) for point in points]
        yield from _line(places, COLORS[points[0].scaling])
        for place, point in enumerate(points):
            before, after = places[max(place - 1, 0)], places[min(place + 1, len(places) - 1)]
            yield from _mark(point, places[place], before[1], after[1])


def _powers(low: int, high: float) -> range:
    """The powers of two that an axis names."""
    return range(low, math.floor(high) + 1, 1 + (math.floor(high) - low) // _TICKS)


def _line(points: Sequence[tuple[float, float]], color: str, *, dashed: bool = False) -> Iterator[str]:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = ' stroke-dasharray="4 4"' if dashed else ""
    yield f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{style}/>'


def _mark(point: Point, at: tuple[float, float], before: float, after: float) -> Iterator[str]:
    """A point and its grid, where the curve does not pass: its neighbours are at these heights, counted downwards."""
    assert point.plan is not None
    x, y = at
    about = f"{point.ranks} ranks, {point.plan.grid}: {point.seconds * 1e3:.3g} ms, {point.efficiency:.0%}"
    color = COLORS[point.scaling]
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"><title>{escape(about)}</title></circle>'
    if point.ranks == 1:
        return
    if point.scaling == "weak":  # that curve is the upper one, and its grids stand to the left
        yield _text(x - 5, y - 6 if before >= y else y + 13, point.plan.grid, anchor="end", size=8, color=color)
    else:
        yield _text(x + 5, y + 13 if after <= y else y - 6, point.plan.grid, size=8, color=color)


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
