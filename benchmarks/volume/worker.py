"""One rank of `benchmarks.volume`: trains the volume by parts and says what memory its process grew by, as JSON on rank 0.

Without a folder: the model itself in one process, over whole volumes; its losses as JSON.
"""

from __future__ import annotations

import itertools
import json
import resource
import runpy
import sys
import time
from pathlib import Path

import torch

from autopar.model_file import load
from autopar.runtime.data.input_part import input_part
from autopar.runtime.data.own_batches import own_batches
from autopar.runtime.process import load_optimizers
from autopar.runtime.program.plan_reader import Description, TensorSpec
from autopar.runtime.session import compiled_job
from autopar.runtime.training.train import make_optimizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "volume.py"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # what clear_refs takes for it


def status() -> dict[str, int]:
    """What the kernel says of this process's memory, in bytes."""
    rows = (line.split() for line in _STATUS.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def main(folder: str, steps: str, limit: str, precision: str) -> None:
    torch.set_num_threads(1)
    load_optimizers()
    dtype = getattr(torch, precision)
    if not folder:
        print(json.dumps(whole(int(steps), dtype)))
        return
    path = Path(folder) / "program.py"
    program = runpy.run_path(str(path), run_name="program")["PROGRAM"]
    opened = compiled_job.open_job(program, path, 0)
    parallel = compiled_job.parallel(opened, 0, dtype)
    optimizer = make_optimizer(opened, list(parallel.parameters()))
    batches = compiled_job.batches(opened, part=parallel.input_part)
    before = status()
    if int(limit):
        most = before["VmData"] + int(limit) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    losses, times, peaks, between = [], [], [], []
    for _ in range(int(steps)):
        _CLEAR.write_text(_RESET_PEAK)
        start = time.perf_counter()
        loss = compiled_job.call(parallel.forward_parts, compiled_job.cast(next(batches), dtype))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        del loss
        times.append(time.perf_counter() - start)
        now = status()
        peaks.append(now["VmHWM"] - now["RssFile"] - now["RssShmem"])  # files that are mapped stay mapped
        between.append(now["RssAnon"])
    seconds = sorted(times)[len(times) // 2]
    memory = {"grown": max(peaks) - before["RssAnon"], "measured": max(peaks[1:]) - min(between)}
    every = parallel.grid.comm.gather_objects({**memory, "losses": losses, "seconds": seconds})
    if parallel.grid.rank == 0:
        print(json.dumps(every))
    parallel.free()


def whole(steps: int, dtype: torch.dtype) -> list[float]:
    """The losses of the model itself."""
    file = load(EXAMPLE)
    assert file.batches is not None
    assert file.optimizer is not None
    given = file.example_inputs()
    assert isinstance(given, dict)
    inputs = tuple(TensorSpec(name, tuple(tensor.shape), tensor.dtype, "input") for name, tensor in given.items())
    part = input_part([(Description("volume", "1", inputs, (), rows=1, batched=tuple(given)), {})], ())
    torch.manual_seed(0)
    model = file.model().to(dtype)
    optimizer = file.optimizer(model.parameters())
    losses = []
    for batch in itertools.islice(own_batches(file.batches, lambda: part, file.path.name), steps):
        loss = compiled_job.call(model, compiled_job.cast(batch, dtype))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
