"""Figures 6 to 10 of Gholami and others, "Integrated Model, Batch and Domain Parallelism", computed from its equations.

    python -m benchmarks.gholami2018                             16 panels, and how they differ from the equations
    python -m benchmarks.gholami2018 --picture gholami2018.svg   the bars beside the published ones
    python -m benchmarks.gholami2018 --bars                      every bar in seconds
    python -m benchmarks.gholami2018 --planner                   the same network through autopar's own planner
    python -m benchmarks.gholami2018 --json                      all of it for machines

The settings are those of gholami2018.toml beside this file, or of the file that --settings names. A panel comes out where
the best grid and the speed-ups are those written on it, and the heights of all its bars, whole and communication alone, lie
within 1.5 pixels of the plot (2.5 in figure 9d, a hundredth of its highest bar).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from autopar.errors import AutoparError
from benchmarks.gholami2018 import figures, picture
from benchmarks.gholami2018.settings import Panel, Paper, load
from benchmarks.options import add_json, described

LIMITS = {"9d": 2.5}  # pixels
LIMIT = 1.5
TEXTS = {
    "model": "the bars have halos in the convolutions (equation 9), the text has model parallelism in all layers (8)",
    "two thirds": "sums of gradients hide behind the whole compute and nothing else does; the text says two thirds of all",
}
NAMES = {"drawn": "as drawn", "equations": "by the equations", "text": "by the text"}


def comes_out(panel: Panel, match: figures.Match) -> bool:
    """Whether annotations and heights are those of the paper."""
    within = max(match.total, match.communication) <= LIMITS.get(panel.figure, LIMIT)
    return match.grid and match.speedup and match.communication_speedup and within


def readings(panel: Panel) -> tuple[figures.Reading, ...]:
    """The text is a reading of its own only where it says something else."""
    return figures.READINGS if panel.text else figures.READINGS[:2]


def record(paper: Paper, panel: Panel) -> dict[str, Any]:
    """One panel for machines."""
    facts: dict[str, Any] = {
        "figure": panel.figure,
        "batch": panel.batch,
        "ranks": panel.ranks,
        "seconds_per_pixel": panel.pixel,
        "published": {
            "best": panel.best,
            "speedup": panel.speedup,
            "communication_speedup": panel.communication_speedup,
            "bars": [_bar(bar) for bar in figures.published(panel)],
        },
    }
    for reading in readings(panel):
        bars = figures.bars(paper, panel, reading)
        match = figures.match(panel, bars)
        total, communication = figures.speedups(bars)
        facts[reading] = {
            "best": figures.best(bars).grid,
            "speedup": total,
            "communication_speedup": communication,
            "pixels": asdict(match),
            "comes_out": comes_out(panel, match),
            "bars": [_bar(bar) for bar in bars],
        }
    return facts


def _bar(bar: figures.Bar) -> dict[str, Any]:
    return {
        "grid": bar.grid,
        "compute": bar.compute,
        "batch": bar.batch,
        "model": bar.model,
        "communication": bar.communication,
        "total": bar.total,
    }


def panels_table(records: Sequence[dict[str, Any]]) -> Table:
    """Per panel the annotations, and what every reading gives: best grid, speed-up of the total (of communication)."""
    shown = Table(title="best grid, speed-up of the whole (of communication)", title_justify="left")
    shown.add_column("figure")
    shown.add_column("batch", justify="right")
    shown.add_column("ranks", justify="right")
    shown.add_column("published")
    for name in NAMES.values():
        shown.add_column(name)
    shown.add_column("off by, px", justify="right")
    shown.add_column("split, px", justify="right")
    shown.add_column("comes out")
    for panel in records:
        pixels = panel["drawn"]["pixels"]
        shown.add_row(
            *(panel["figure"], str(panel["batch"]), str(panel["ranks"]), _said(panel["published"], 1)),
            *(_said(panel[reading], 2) if reading in panel else "" for reading in NAMES),
            *(f"{max(pixels['total'], pixels['communication']):.2f}", f"{pixels['split']:.2f}"),
            "yes" if panel["drawn"]["comes_out"] else "NO",
        )
    return shown


def _said(reading: dict[str, Any], digits: int) -> str:
    total, communication = reading["speedup"], reading["communication_speedup"]
    words = [reading["best"], "-" if total is None else f"{total:.{digits}f}"]
    return " ".join(words + ([] if communication is None else [f"({communication:.{digits}f})"]))


def bars_table(panel: dict[str, Any]) -> Table:
    """Every bar of a panel in seconds of one epoch: the published, and as drawn."""
    shown = Table(title=f"figure {panel['figure']}, seconds of one epoch: published | computed", title_justify="left")
    parts = ("compute", "batch", "model", "communication", "total")
    for name in ("grid", *parts):
        shown.add_column(name, justify="right")
    for theirs, ours in zip(panel["published"]["bars"], panel["drawn"]["bars"], strict=True):
        shown.add_row(ours["grid"], *(f"{theirs[part]:.2f} | {ours[part]:.2f}" for part in parts))
    return shown


def deviations(paper: Paper) -> dict[str, Any]:
    """How the published bars differ from the equations, in words of one image and in ratios of compute."""
    width = paper.drawn.input_width
    connected = sum(layer.size for layer in paper.connected)
    added = sum(layer.size for layer in paper.connected if layer.name in paper.drawn.redistributed)
    forward = {layer.name: layer.halo_forward for layer in paper.convolutions}
    wide = {
        layer.name: layer.input[0] * width.get(layer.name, layer.input[2]) * (layer.kernel[0] // 2)
        for layer in paper.convolutions
    }
    backward = sum(layer.halo_backward for layer in paper.convolutions)
    measured = dict(zip(paper.figure4.batch, paper.figure4.seconds, strict=True))
    return {
        "connected_words": {"equations": connected, "drawn": connected + added / 3},
        "halo_words": {
            "equations": sum(forward.values()) + backward,
            "drawn": paper.drawn.halo_times * (sum(wide.values()) + backward),
        },
        "compute_over_figure4": {
            panel.figure: panel.compute * panel.pixel * panel.ranks / measured[local]
            for panel in paper.panels
            if (local := max(1, panel.batch // panel.ranks)) in measured
        },
    }


def deviations_text(paper: Paper) -> str:
    """The same in sentences."""
    found, drawn = deviations(paper), paper.drawn
    connected, halo, ratios = found["connected_words"], found["halo_words"], found["compute_over_figure4"].values()
    added, wide = ", ".join(drawn.redistributed), ", ".join(drawn.input_width)
    lines = [
        "The published bars differ from the published equations:",
        f"- model parallelism sends as for {connected['drawn']:,.0f} words per image instead of {connected['equations']:,}:"
        f" equation 6 is added at {added}",
        f"- halos are {halo['drawn']:,} words per image instead of {halo['equations']:,}: each is counted"
        f" {drawn.halo_times} times, that of {wide} at its input before pooling",
    ]
    differ = {text: [panel.figure for panel in paper.panels if panel.text == text] for text in TEXTS}
    lines += [f"- {', '.join(names)}: {TEXTS[text]}" for text, names in differ.items() if names]
    if ratios:
        lines.append(f"- compute is {min(ratios):.2f} to {max(ratios):.2f} of figure 4's at the same batch per rank")
    return "\n".join(lines)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--settings", type=Path, metavar="FILE", help="other settings than those that ship")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the bars as an SVG")
    parser.add_argument("--bars", action="store_true", help="print every bar")
    parser.add_argument("--planner", action="store_true", help="compile the network for every grid as well")
    add_json(parser)
    options = parser.parse_args()
    try:
        paper = load(options.settings)
        report(paper, options)
    except AutoparError as error:
        sys.exit(str(error))


def report(paper: Paper, options: argparse.Namespace) -> None:
    """Compute, print, draw."""
    records = [record(paper, panel) for panel in paper.panels]
    if options.picture:
        options.picture.write_text(picture.svg(paper), "utf-8")
    if options.json:
        print(
            json.dumps({"panels": records, "deviations": deviations(paper)} | _plans_record(paper, options), indent=1)
        )
        return
    console = Console(width=max(Console().width, 165))
    if options.bars:
        for row in records:
            console.print(bars_table(row))
    console.print(panels_table(records))
    right = sum(row["drawn"]["comes_out"] for row in records)
    console.print(f"{right} of {len(records)} panels come out.\n{deviations_text(paper)}", highlight=False)
    if options.planner:
        from benchmarks.gholami2018 import planner  # brings torch along

        plans = list(planner.compare(paper))
        console.print(planner.table(plans))
        console.print(planner.choices(plans), highlight=False)


def _plans_record(paper: Paper, options: argparse.Namespace) -> dict[str, Any]:
    if not options.planner:
        return {}
    from benchmarks.gholami2018 import planner

    return {"planner": [planner.record(comparison) for comparison in planner.compare(paper)]}


if __name__ == "__main__":
    main()
