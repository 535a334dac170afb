"""One rank of `benchmarks.checkpoint`: saves and loads in turn by several means, trains beside a save; JSON on rank 0."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as dcp

import autopar
from autopar.runtime.session.parallel_module import Parallel
from benchmarks.models import MLP, Inputs, Model, batch, seeded

WAYS = ("autopar", "torch.save flushed", "torch.save", "dcp")
QUIET, BESIDE = 5, 3  # steps without a save before each that is begun, and how often


def session_of(small: bool, grid: str) -> tuple[Parallel, torch.optim.Optimizer, Inputs]:
    """An MLP whose layers are cut over all ranks, with the state of AdamW."""
    width, samples = (64, 8) if small else (2560, 512)

    def inputs() -> Inputs:
        return {"x": torch.randn(samples, width), "y": torch.randn(samples, width)}

    model = Model("mlp", f"MLP, 4 x ({width} x {width})", samples, 1e-3, lambda: MLP(width), inputs)
    session = autopar.parallelize(seeded(model), batch(model), grid=grid, plan="model", balance="off")
    return session, torch.optim.AdamW(session.parameters()), batch(model)


class Rank:
    """What is measured of a session and its optimizer."""

    def __init__(self, small: bool, ranks: int, folder: Path) -> None:
        torch.set_num_threads(1)
        self.session, self.optimizer, self.given = session_of(small, str(ranks))
        self.folder, self.comm = folder, self.session.grid.comm
        self.step()

    def step(self) -> float:
        """Seconds of a training step, until all ranks have made it."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.session(**self.given).backward()
        self.optimizer.step()
        self.comm.barrier()
        return time.perf_counter() - start

    def tensors(self) -> dict[str, Tensor]:
        """What this rank has to save, which no other one has."""
        held = {f"model/{name}": one.detach() for name, one in self.session.named_parameters() if one.numel()}
        for number, state in enumerate(self.optimizer.state.values()):
            held |= {f"{number}/{key}": value for key, value in state.items() if value.numel() > 1}
        return {f"{self.comm.rank}/{name}": one for name, one in held.items()}

    def timed(self, action: Callable[[], object]) -> float:
        """Seconds from when all ranks begin until all are done; the disk has nothing to do before."""
        if self.comm.rank == 0:
            os.sync()
        self.comm.barrier()
        start = time.perf_counter()
        action()
        self.comm.barrier()
        return time.perf_counter() - start

    def place(self, way: str) -> Path:
        """An empty folder for a way to save."""
        place = self.folder / way.replace(" ", "-")
        if self.comm.rank == 0:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        self.comm.barrier()
        return place

    def save(self, way: str) -> float:
        place = self.place(way)
        if way == "autopar":
            return self.timed(lambda: self.session.save(place, self.optimizer, step=1))
        if way == "dcp":
            return self.timed(lambda: dcp.save(self.tensors(), checkpoint_id=place))
        return self.timed(lambda: self.torch_save(place, flush=way != "torch.save"))

    def torch_save(self, place: Path, flush: bool) -> None:
        state = {"model": dict(self.session.state_dict()), "optimizer": self.optimizer.state_dict()}
        with (place / f"{self.comm.rank}.pt").open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            if flush:
                os.fsync(stream.fileno())

    def load(self, way: str) -> float:
        place = self.folder / way.replace(" ", "-")
        if way == "autopar":
            return self.timed(lambda: self.session.load(place, self.optimizer))
        if way == "dcp":
            return self.timed(lambda: dcp.load(self.tensors(), checkpoint_id=place))
        return self.timed(lambda: self.torch_load(place, fill=way != "torch.save"))

    def torch_load(self, place: Path, fill: bool) -> None:
        state = torch.load(place / f"{self.comm.rank}.pt")
        if fill:  # what a job does that goes on
            self.session.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    def beside(self) -> dict[str, Any]:
        """Steps without a save, and while one is under way; the seconds that beginning it takes."""
        quiet, during, copies, saves = [], [], [], []
        for number in range(BESIDE):
            quiet += [self.step() for _ in range(QUIET)]
            place = self.place("beside")
            begin = time.perf_counter()
            copies.append(self.timed(lambda place=place: self.session.start_save(place, self.optimizer)))  # type: ignore[misc]
            saving = self.session._saving
            assert saving is not None
            while not saving.ended:
                during.append(self.step())
            saves.append(time.perf_counter() - begin)
            if not number:  # the first save makes the copies' memory
                first = copies.pop()
        return {
            "quiet": median(quiet), "during": median(during), "mean_quiet": sum(quiet) / len(quiet),
            "mean_during": sum(during) / len(during), "steps": len(during) / BESIDE, "first_copy": first,
            "copy": median(copies), "save": median(saves), "times_quiet": quiet, "times_during": during,
        }  # fmt: skip


def resident(field: str) -> int:
    """A number of bytes that Linux says of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def loaded_elsewhere(small: bool, ranks: int, folder: Path) -> None:
    """Load the checkpoint of another grid: how far resident memory rose at most, beside what this rank holds."""
    torch.set_num_threads(1)
    session, optimizer, _ = session_of(small, str(ranks))
    place = folder / "autopar"
    session.grid.comm.barrier()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = resident("VmRSS")
    session.load(place, optimizer)
    rise = resident("VmHWM") - before
    own = sum(one.nbytes for one in session.parameters())
    state = sum(value.nbytes for one in optimizer.state.values() for value in one.values())
    every = session.grid.comm.gather_objects({"rise": rise, "shards": own + state, "state": state})
    if session.grid.rank == 0:
        print(json.dumps(every))
    session.grid.comm.barrier()


def main(what: str, size: str, rounds: str, place: str) -> None:
    warnings.simplefilter("ignore")
    folder, small = Path(place), size == "small"
    if what == "elsewhere":
        loaded_elsewhere(small, int(rounds), folder)
        return
    from autopar.runtime.transport.world import default_world

    world = default_world()
    meeting = folder / f"meet-{world.size}"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=world.rank, world_size=world.size)
    rank = Rank(small, world.size, folder)
    saves: dict[str, list[float]] = {way: [] for way in WAYS}
    loads: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(int(rounds)):
        for way in WAYS[:: 1 if number % 2 else -1]:
            saves[way].append(rank.save(way))
            loads[way].append(rank.load(way))
    total = sum(map(int, map(str, rank.comm.gather_objects(sum(one.nbytes for one in rank.tensors().values())))))
    found = {"bytes": total, "saves": saves, "loads": loads, "beside": rank.beside()}
    if rank.comm.rank == 0:
        print(json.dumps(found))
    rank.comm.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
