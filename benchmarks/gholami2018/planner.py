"""The paper's AlexNet through autopar's own planner, on the paper's machine (profile `knl`).

For every number of ranks, each grid of the panel is compiled freely, and the panel's best grid once more with every
convolution and every fully connected layer pinned to what the paper does there. Both are priced by the same
cost model, so that they can be compared; beside them stands the communication by the paper's equations. Seconds are those of
one epoch. Grids are written data=Pc,model=Pr, and where images are cut as well data=Pc,model=Pr/parts,domain=parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from autopar.compiler import Compiled, compile
from autopar.model_file import load
from benchmarks.gholami2018.figures import bars
from benchmarks.gholami2018.settings import Panel, Paper

MODEL = Path(__file__).parents[2] / "examples" / "alexnet.py"
FIGURES = ("7a", "7b", "7c", "7d", "10b", "10c", "10d")  # 8 to 4096 ranks


@dataclass(frozen=True)
class Priced:
    """A compiled plan: seconds of one epoch, and processor seconds that the compiler took."""

    grid: str
    compute: float
    communication: float
    total: float
    seconds_to_compile: float
    choices: dict[str, str]  # by layer, the letters split on the grid's axes

    @property
    def summary(self) -> str:
        """Runs of layers with the same letters, as in "conv1-conv5 n.n, fc6 k.n"."""
        runs: list[tuple[str, str, str]] = []
        for layer, letters in self.choices.items():
            if runs and runs[-1][2] == letters:
                runs[-1] = (runs[-1][0], layer, letters)
            else:
                runs.append((layer, layer, letters))
        return ", ".join(f"{first}{'' if first == last else '-' + last} {letters}" for first, last, letters in runs)


@dataclass(frozen=True)
class PanelComparison:
    """What autopar picks for a panel, beside the paper's best grid."""

    figure: str
    batch: int
    ranks: int
    paper_grid: str
    equations: float  # communication of the paper's best grid by the equations
    paper: Priced
    plans: tuple[Priced, ...]

    @property
    def pick(self) -> Priced:
        """The cheapest plan of all grids."""
        return min(self.plans, key=lambda plan: plan.total)


def grid_of(panel: Panel, rows: int, columns: int) -> str:
    """The grid as autopar writes it."""
    parts = panel.image_parts or 1
    sizes = {"data": columns, "model": rows // parts, "domain": parts}
    return ",".join(f"{name}={size}" for name, size in sizes.items() if name != "domain" or size > 1)


def pins_of(panel: Panel) -> tuple[str, ...]:
    """What the paper does: batch and domain in convolutions, rows of the weights and batch in connected layers."""
    pins = ["conv*: n@data", "conv*: n@model", "fc*: b0@data", "fc*: n@model"]
    return (*pins, "conv*: h@domain", "fc*: n@domain") if (panel.image_parts or 1) > 1 else tuple(pins)


def compare(paper: Paper, figures: Sequence[str] = FIGURES) -> Iterator[PanelComparison]:
    """One comparison per panel."""
    for panel in paper.panels:
        if panel.figure not in figures:
            continue
        rows, columns = (int(size) for size in panel.best.split("x"))
        by_equations = {bar.grid: bar for bar in bars(paper, panel, "equations")}[panel.best]
        pinned = price(paper, panel, grid_of(panel, rows, columns), pins_of(panel))
        plans = tuple(price(paper, panel, grid_of(panel, *grid)) for grid in panel.grids)
        yield PanelComparison(
            panel.figure, panel.batch, panel.ranks, panel.best, by_equations.communication, pinned, plans
        )


def price(paper: Paper, panel: Panel, grid: str, pin: Sequence[str] = ()) -> Priced:
    """Compile AlexNet at the panel's batch."""
    start = time.process_time()
    compiled = _compiled(panel.batch, grid, pin)
    seconds = time.process_time() - start
    steps, predicted = paper.images / panel.batch, compiled.plan.predicted
    communication = predicted.communication + predicted.gradients
    return Priced(
        grid,
        steps * predicted.compute,
        steps * communication,
        steps * predicted.seconds,
        seconds,
        {
            node.name: ".".join(choice.letter if choice.mode == "split" else "-" for choice in node.choices)
            for node in compiled.plan.nodes
            if node.name.startswith(("conv", "fc"))
        },
    )


def _compiled(batch: int, grid: str, pin: Sequence[str]) -> Compiled:
    import torch

    file = load(MODEL)
    example = file.example_inputs()
    assert isinstance(example, dict)

    def inputs() -> dict[str, Any]:
        return {
            name: torch.empty(batch, *tensor.shape[1:], dtype=tensor.dtype, device="meta")
            for name, tensor in example.items()
        }

    return compile(file.model, inputs, grid=grid, machine="knl", optimizer="sgd", pin=pin, name="alexnet")


def table(comparisons: Sequence[PanelComparison]) -> Table:
    """Seconds of one epoch, paper's best grid and autopar's pick."""
    title = "AlexNet through autopar's planner, seconds of one epoch (comm. = communication)"
    shown = Table(title=title, title_justify="left")
    shown.add_column("ranks", justify="right")
    shown.add_column("batch", justify="right")
    shown.add_column("paper's best")
    for name in ("comm. by\nequations", "comm. by\nautopar", "total by\nautopar"):
        shown.add_column(name, justify="right")
    shown.add_column("autopar's pick")
    for name in ("comm.", "total", "pick /\npaper", "compile,\nCPU s"):
        shown.add_column(name, justify="right")
    for comparison in comparisons:
        slowest = max(plan.seconds_to_compile for plan in comparison.plans)
        shown.add_row(
            *(str(comparison.ranks), str(comparison.batch), comparison.paper_grid),
            *(
                f"{value:.2f}"
                for value in (comparison.equations, comparison.paper.communication, comparison.paper.total)
            ),
            comparison.pick.grid,
            *(f"{value:.2f}" for value in (comparison.pick.communication, comparison.pick.total)),
            *(f"{comparison.pick.total / comparison.paper.total:.2f}", f"{slowest:.1f}"),
        )
    return shown


def choices(comparisons: Sequence[PanelComparison]) -> str:
    """What each pick splits, layer by layer, a letter per axis."""
    lines = [
        f"{comparison.ranks} ranks, {comparison.pick.grid}: {comparison.pick.summary}" for comparison in comparisons
    ]
    return "\n".join(["What autopar's pick splits on each axis, - where a layer is whole:", *lines])


def record(comparison: PanelComparison) -> dict[str, Any]:
    """The same for machines."""
    return asdict(comparison) | {"pick": asdict(comparison.pick)}
