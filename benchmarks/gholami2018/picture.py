"""The panels as one SVG: for every grid the published bar on the left, and on the right the computed one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from benchmarks.gholami2018.figures import Bar, bars, best, match, published, speedups
from benchmarks.gholami2018.settings import Panel, Paper

WIDTH, HEIGHT, COLUMNS = 370, 250, 4
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 44, 40, 316, 170
COLORS = {"compute": "#4878a8", "model": "#e0a040", "batch": "#b04848"}
PALE = {"compute": "#9ab5cf", "model": "#eecb96", "batch": "#d49a9a"}
LABELS = {"compute": "compute", "model": "gathers, sums, halos", "batch": "sums of gradients"}


def svg(paper: Paper) -> str:
    """All panels, four in a row, with a legend below."""
    rows = -(-len(paper.panels) // COLUMNS)
    width, height = WIDTH * COLUMNS, HEIGHT * rows + 56
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, panel in enumerate(paper.panels):
        row, column = divmod(place, COLUMNS)
        lines.append(f'<g transform="translate({column * WIDTH},{row * HEIGHT})">')
        lines += _panel(panel, published(panel), bars(paper, panel))
        lines.append("</g>")
    lines += _legend(HEIGHT * rows)
    return "\n".join([*lines, "</svg>\n"])


def _panel(panel: Panel, left: Sequence[Bar], right: Sequence[Bar]) -> Iterator[str]:
    most = max(bar.total for bar in (*left, *right)) * 1.05
    step = PLOT_WIDTH / len(left)
    total, communication = speedups(right)
    off = match(panel, right).total
    heads = (
        f"figure {panel.figure}: batch {panel.batch}, {panel.ranks} ranks",
        f"best {best(right).grid}, {total:.2f} times as fast, communication {communication:.1f} times",
    )
    for line, text in enumerate(heads):
        yield _text(LEFT, 14 + 13 * line, text, weight="bold" if not line else "normal")
    yield _text(LEFT + PLOT_WIDTH, 14, f"within {off:.1f} px", anchor="end")
    for value in _marks(most):
        y = _height(most, value)
        yield f'<line x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield _text(LEFT - 4, y + 3, f"{value:.3g}", anchor="end")
    for place, (theirs, ours) in enumerate(zip(left, right, strict=True)):
        x = LEFT + step * (place + 0.5)
        yield from _stack(x - 0.38 * step, 0.36 * step, theirs, most, PALE)
        yield from _stack(x + 0.02 * step, 0.36 * step, ours, most, COLORS)
        weight = "bold" if ours.grid == panel.best else "normal"
        yield _text(x, TOP + PLOT_HEIGHT + 13, ours.grid, anchor="middle", weight=weight, size=8)
    yield _text(LEFT - 4, TOP - 2, "s", anchor="end")


def _stack(x: float, width: float, bar: Bar, most: float, colors: Mapping[str, str]) -> Iterator[str]:
    below = 0.0
    for part, color in colors.items():
        value = float(getattr(bar, part))
        y = _height(most, below + value)
        height = _height(most, below) - y
        yield f'<rect x="{x:.1f}" y="{y:.2f}" width="{width:.1f}" height="{height:.2f}" fill="{color}"/>'
        below += value


def _legend(y: float) -> Iterator[str]:
    x = LEFT
    for part in COLORS:
        for color in (PALE[part], COLORS[part]):
            yield f'<rect x="{x}" y="{y + 10}" width="12" height="12" fill="{color}"/>'
            x += 14
        yield _text(x + 2, y + 20, LABELS[part])
        x += 150
    texts = (
        "left, pale: published; right: computed; seconds of one epoch; below: grid Pr x Pc, the best one bold",
        "times: against the first grid, computed; px: the most that a bar's height differs, in pixels of the published plot",
    )
    for line, text in enumerate(texts):
        yield _text(x, y + 20 + 14 * line, text)


def _marks(most: float) -> Iterator[float]:
    """Round numbers from 0 to `most`, three to seven of them."""
    power = 10.0 ** math.floor(math.log10(most))
    step = next(times * power for times in (0.2, 0.5, 1, 2) if most / (times * power) < 6)
    value = 0.0
    while value <= most:
        yield value
        value += step


def _height(most: float, value: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - value / most)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", size: int = 10) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
