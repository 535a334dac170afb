"""LeNet-5 on handwritten digits: one process, four ranks by hand (examples/lenet5.py), four ranks as compiled.

A trial is a seed: of the split into training and test images, of the initial parameters, and of the order of images. The
three train from the same seeds, so that trials are paired. Printed are the mean test accuracy over the trials and its
spread (standard deviation), those of the paired differences from one process, and the seconds of an epoch. Then all three
run one epoch in float64 with equal seeds: the largest relative difference of a parameter from that of one process.

The parent compiles, trains sequentially, and starts itself with ``--worker`` on four ranks for the rest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import autopar
from autopar.jobs.launch import command
from autopar.runtime import default_world
from autopar.runtime.session.parallel_module import Parallel
from benchmarks.contenders.compiled import open_session
from benchmarks.options import described
from examples import lenet5, lenet5_model

RANKS, GRID = 4, "2x2"
TOLERANCE = 1e-10
TITLES = {"sequential": "one process", "hand": "four ranks, by hand", "compiled": "four ranks, compiled"}
Trained = tuple[Callable[[], dict[str, Tensor]], nn.Module]  # the whole parameters afterwards, and what was trained


def twin(seed: int, dtype: torch.dtype) -> Any:  # noqa: ANN401 (examples are not annotated)
    torch.manual_seed(seed)
    return lenet5_model.LeNet5().to(dtype)


def sequential(seed: int, dtype: torch.dtype, folder: Path) -> Trained:
    net = twin(seed, dtype)
    return net.state_dict, net


def by_hand(seed: int, dtype: torch.dtype, folder: Path) -> Trained:
    net = lenet5.DistributedLeNet5(default_world(), twin(seed, dtype))
    return net.whole, net


def compiled(seed: int, dtype: torch.dtype, folder: Path) -> Trained:
    net = open_session(folder / "compiled", twin(seed, dtype), dtype)
    return net.full_state_dict, net


SETUPS = {"sequential": sequential, "hand": by_hand, "compiled": compiled}


@dataclass(frozen=True, slots=True)
class Extent:
    """How much to train: seeds from `first`, each so many epochs of so many images."""

    first: int
    trials: int
    epochs: int
    images: int

    @property
    def words(self) -> list[str]:
        """The options that say so."""
        pairs = {"first": self.first, "trials": self.trials, "epochs": self.epochs, "images": self.images}
        return [word for name, value in pairs.items() for word in (f"--{name}", str(value))]


def trial(
    setup: str, seed: int, extent: Extent, dtype: torch.dtype, folder: Path
) -> tuple[float, float, dict[str, Tensor]]:
    """Test accuracy, seconds of an epoch, and whole parameters, the first and the last on rank 0 only. Collective."""
    state, net = SETUPS[setup](seed, dtype, folder)
    (images, labels), (test_images, test_labels) = lenet5.data(seed)
    start = time.perf_counter()
    n = extent.images
    lenet5.train(net, getattr(net, "loss", net), images[:n].to(dtype), labels[:n], seed, extent.epochs)
    seconds = (time.perf_counter() - start) / extent.epochs
    whole = {name: tensor.detach().clone() for name, tensor in state().items()}
    free(net)
    if any(not tensor.numel() for tensor in whole.values()):
        return 0.0, seconds, {}
    reader = twin(seed, dtype)
    reader.load_state_dict(whole)
    with torch.no_grad():
        return lenet5.accuracy(reader.logits(test_images.to(dtype)), test_labels), seconds, whole


def free(net: nn.Module) -> None:
    if isinstance(net, Parallel):
        net.free()
        net.grid.free()
    elif isinstance(net, lenet5.DistributedLeNet5):
        net.space.free()
        net.root.comm.free()


def measure(setup: str, extent: Extent, folder: Path, tell: bool) -> dict[str, list[float]]:
    """Accuracy and seconds of every trial; the parameters of the float64 epoch go to a file."""
    trials = []
    for seed in range(extent.first, extent.first + extent.trials):
        trials.append(trial(setup, seed, extent, torch.float32, folder)[:2])
        if tell:
            print(f"{TITLES[setup]}, trial {seed}: {trials[-1][0]:.2%}, {trials[-1][1]:.2f} s/epoch", file=sys.stderr)
    *_, whole = trial(setup, extent.first, replace(extent, epochs=1), torch.float64, folder)
    if whole:
        save_file(whole, folder / f"{setup}.safetensors")
    return {"accuracy": [value for value, _ in trials], "seconds": [value for _, value in trials]}


def worker(extent: Extent, folder: Path) -> None:
    first = default_world().rank == 0
    results = {setup: measure(setup, extent, folder, first) for setup in ("hand", "compiled")}
    if first:
        (folder / "results.json").write_text(json.dumps(results))


def run(extent: Extent, folder: Path) -> dict[str, Any]:
    plan = autopar.compile(
        lenet5_model.model, lenet5_model.example_inputs(), grid=GRID, optimizer="adamw", name="lenet5"
    )
    plan.save(folder / "compiled")
    results: dict[str, Any] = {"sequential": measure("sequential", extent, folder, True)}
    subprocess.run(command("benchmarks.lenet5", RANKS, ["--worker", str(folder), *extent.words]), check=True)
    results |= json.loads((folder / "results.json").read_text())
    expected = load_file(folder / "sequential.safetensors")
    for setup in ("hand", "compiled"):
        got = load_file(folder / f"{setup}.safetensors")
        gaps = {name: ((got[name] - tensor).norm() / tensor.norm()).item() for name, tensor in expected.items()}
        results[setup]["difference"] = max(gaps.values())
    return results


def show(results: dict[str, Any], extent: Extent) -> None:
    table = Table(title=f"LeNet-5, {extent.trials} paired trials of {extent.epochs} epochs, batch {lenet5_model.BATCH}")
    for heading in ("", "test accuracy", "difference, paired", "s/epoch", "parameters, float64, one epoch"):
        table.add_column(heading, justify="right" if heading else "left")
    base = results["sequential"]["accuracy"]
    for setup, result in results.items():
        pairs = [a - b for a, b in zip(result["accuracy"], base, strict=True)]
        gap = f"{result['difference']:.1e}" if "difference" in result else ""
        seconds = f"{statistics.median(result['seconds']):.2f}"
        table.add_row(
            TITLES[setup], spread(result["accuracy"]), "" if setup == "sequential" else spread(pairs), seconds, gap
        )
    Console().print(table)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2%} +- {statistics.stdev(values) if len(values) > 1 else 0.0:.2%}"


def main() -> int:
    parser = described(__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    parser.add_argument("--epochs", type=int, default=lenet5.EPOCHS)
    parser.add_argument("--images", type=int, default=lenet5.TRAINED, help="to train on")
    parser.add_argument("--json", action="store_true", help="print the record instead of a table")
    parser.add_argument("--small", action="store_true", help="one trial of one epoch of three batches")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    extent = Extent(options.first, options.trials, options.epochs, options.images)
    extent = Extent(0, 1, 1, 3 * lenet5_model.BATCH) if options.small else extent
    if options.worker:
        worker(extent, options.worker)
        return 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = run(extent, Path(folder))
    if options.json:
        print(json.dumps(results))
    else:
        show(results, extent)
    return int(any(results[setup]["difference"] > TOLERANCE for setup in ("hand", "compiled")))


if __name__ == "__main__":
    sys.exit(main())
