"""Scaling curves as an SVG: speed-up over ranks, both logarithmic, with the ideal line and the grid at every point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from autopar.scaling import Point

WIDTH, HEIGHT = 640, 480
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 64, 48, 552, 372
COLORS = {"strong": "#b04848", "weak": "#4878a8"}


def svg(title: str, points: Sequence[Point]) -> str:
    """The curves; points without a plan are left out."""
    shown = [point for point in points if point.plan is not None]
    most = max([point.ranks for point in shown] + [2])
    values = [point.speedup for point in shown if point.speedup > 0]
    frame = _Frame(math.log2(most), math.floor(math.log2(min([*values, 1.0]))), math.log2(max([*values, float(most)])))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 20, title, weight="bold"),
        *frame.axes(),
        *frame.line([(1, 1.0), (most, float(most))], "#888888", dashed=True),
    ]
    kinds = [kind for kind in COLORS if any(point.scaling == kind for point in shown)]
    for place, kind in enumerate(kinds):
        curve = sorted((point for point in shown if point.scaling == kind), key=lambda point: point.ranks)
        lines += frame.line([(point.ranks, point.speedup) for point in curve], COLORS[kind])
        for point in curve:
            lines += frame.mark(point)
        lines.append(_text(LEFT + 8 + 150 * place, 38, f"{kind} scaling", color=COLORS[kind]))
    lines.append(_text(LEFT + 8 + 150 * len(kinds), 38, "ideal", color="#888888"))
    return "\n".join([*lines, "</svg>\n"])


class _Frame:
    """Where a number of ranks and a speed-up are in the picture."""

    def __init__(self, ranks: float, low: float, high: float) -> None:
        self.ranks, self.low, self.high = max(ranks, 1.0), low, max(high, low + 1.0)

    def at(self, ranks: int, speedup: float) -> tuple[float, float]:
        x = LEFT + PLOT_WIDTH * math.log2(ranks) / self.ranks
        return x, TOP + PLOT_HEIGHT * (self.high - math.log2(speedup)) / (self.high - self.low)

    def axes(self) -> Iterator[str]:
        bottom = TOP + PLOT_HEIGHT
        for power in range(math.floor(self.ranks) + 1):
            x, _ = self.at(2**power, 1.0)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#eeeeee"/>'
            yield _text(x, bottom + 14, str(2**power), anchor="middle")
        for power in range(math.ceil(self.low), math.floor(self.high) + 1):
            _, y = self.at(1, 2.0**power)
            yield f'<line x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eeeeee"/>'
            yield _text(LEFT - 6, y + 4, f"{2.0**power:g}", anchor="end")
        yield _text(LEFT + PLOT_WIDTH / 2, bottom + 32, "ranks", anchor="middle")
        yield _text(8, TOP - 8, "speed-up")

    def line(self, points: Sequence[tuple[int, float]], color: str, *, dashed: bool = False) -> Iterator[str]:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        style = ' stroke-dasharray="4 4"' if dashed else ""
        yield f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{style}/>'

    def mark(self, point: Point) -> Iterator[str]:
        assert point.plan is not None
        x, y = self.at(point.ranks, point.speedup)
        about = f"{point.ranks} ranks, {point.plan.grid}: {point.seconds * 1e3:.3g} ms, {point.efficiency:.0%}"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLORS[point.scaling]}"><title>{escape(about)}</title></circle>'
        if point.scaling == "weak":  # that curve is the upper one
            yield _text(max(x - 5, LEFT + 24), y - 6, point.plan.grid, anchor="end", size=8)
        else:
            right = x > LEFT + PLOT_WIDTH - 40
            yield _text(x if right else x + 5, y + 13, point.plan.grid, anchor="end" if right else "start", size=8)


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
