"""A compiled folder trained while axes are cut elsewhere and segments move at random, in and between steps, beside the model."""

import random
import runpy
import threading
from unittest import mock

import torch

from autopar.ir.grid import GridShape
from autopar.runtime import simulate
from autopar.runtime.parameters.moving.legal_cuts import cuts_of, illegal
from autopar.runtime.session import compiled_job
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.verification.trained import TrainingCase
from autopar.runtime.verification.verify import compare, verify

TRIES = 20
TOLERANCE = 1e-10


def drawn_cuts(parallel, draw):
    """Legal cuts of all axes, some of them balanced, some with positions that have nothing where that is legal."""
    for attempt in range(TRIES):
        cuts = {axis.name: _fractions(axis.size, draw, attempt / TRIES) for axis in parallel.grid.axes}
        if not illegal(parallel.grid.axes, cuts_of(cuts), parallel.filled):
            return cuts
    return {}


def _fractions(size, draw, even):
    if draw.random() < 0.15:
        return None
    inner = sorted(draw.choice([draw.random(), draw.randrange(5) / 4]) for _ in range(size - 1))
    return (0.0, *(even * (i + 1) / size + (1 - even) * one for i, one in enumerate(inner)), 1.0)


class Moving:
    """What every rank, a thread, does beside training: it moves, and keeps the optimizer's whole state."""

    def __init__(self, seed):
        self.seed = seed
        self.own = threading.local()
        self.states, self.moves = [], []

    def optimizer(self, parameters):
        """AdamW over a program's parameters or a model's; the program moves between steps, and within every second one."""
        made = torch.optim.AdamW(parameters, lr=1e-3)
        if not hasattr(self.own, "parallel"):
            self.last = made
            return made
        parallel, draw = self.own.parallel, self.own.draw
        self.own.optimizer = made
        made.register_step_pre_hook(lambda *_: self.move(parallel) if draw.random() < 0.5 else None)
        made.register_step_post_hook(lambda *_: self.move(parallel))
        self.move(parallel)
        return made

    def parallel(self, real, *args):
        self.own.parallel = real(*args)
        self.own.draw = random.Random(self.seed)
        return self.own.parallel

    def move(self, parallel):
        cuts = drawn_cuts(parallel, self.own.draw)
        foreseen = parallel.moved_bytes(cuts, self.own.optimizer)
        parallel.rebalance(cuts, self.own.optimizer)
        places = {}
        if parallel.grid.place is not None:
            draw, positions = self.own.draw, parallel.grid.place.size
            places = {i: draw.randrange(positions) for i in range(len(parallel.segment_seconds)) if draw.random() < 0.5}
            parallel.move_segments(places, self.own.optimizer)
        if parallel.grid.rank == 0:
            self.moves.append((cuts, foreseen, places))

    def free(self, real, parallel):
        state = parallel.full_optimizer_state_dict(self.own.optimizer)["state"]
        if parallel.grid.rank == 0:
            self.states.append(state)
        del self.own.parallel
        real(parallel)

    def model(self, real, *args):
        self.module = real(*args)
        return self.module


def differences(folder, grid, seed=0, steps=3):
    """What differs after some steps of AdamW in float64, as lines, and the moves that were made."""
    torch.set_num_threads(1)
    moving = Moving(seed)
    case = TrainingCase("AdamW", moving.optimizer, torch.float64, TOLERANCE)
    path = folder / "program.py"
    real = compiled_job.parallel, compiled_job.sequential, Parallel.free

    def rank():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, 0)
        return verify(opened, case, steps, 0)

    with (
        mock.patch.object(compiled_job, "parallel", lambda *args: moving.parallel(real[0], *args)),
        mock.patch.object(compiled_job, "sequential", lambda *args: moving.model(real[1], *args)),
        mock.patch.object(Parallel, "free", lambda parallel: moving.free(real[2], parallel)),
    ):
        rows = simulate(GridShape.parse(grid).size, rank, timeout=300.0)[0]
    lines = [
        f"{row.what}: {row.relative:.1e} of {row.tolerance:.0e} at {row.worst}"
        for row in rows
        if not row.relative <= row.tolerance
    ]
    allowed = max([TOLERANCE, *(row.tolerance for row in rows)])
    if len(moving.states) == 1:  # else rounding was tried, and the last one is in float32
        names = {tensor: name for name, tensor in moving.module.named_parameters()}
        expected = {names[tensor]: state for tensor, state in moving.last.state.items()}
        for key in ("exp_avg", "exp_avg_sq", "step"):
            mine = {name: state[key] for name, state in moving.states[0].items()}
            relative, worst = compare(mine, {name: state[key] for name, state in expected.items()})
            lines += [f"{key}: {relative:.1e} at {worst}"] if not relative <= allowed else []
    return lines, moving.moves
