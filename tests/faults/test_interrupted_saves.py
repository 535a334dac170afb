"""Jobs that end at any moment of a save, and checkpoints that are damaged afterwards: the newest whole one is found, and goes on.

A case is drawn: a model, its grid and another one, saves beside steps or not, and what happens: the job is killed at a change of
the disk (all of it, or one rank), the disk is full for one change or from then on, or the newest checkpoint is damaged. Then, in
training with AdamW in float64, the same grid goes on bit for bit as a run without interruption, the other to 1e-12 after ten steps.
"""

import functools
import itertools
import random
import threading
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import divided_programs as divided
import pytest
import torch
from small_programs import PROGRAMS, describe, make

from autopar.errors import AutoparError, CheckpointError
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Shard
from autopar.runtime import Grid, simulate
from autopar.runtime.checkpoint import durable, folders
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.program import Program
from autopar.runtime.session.parallel_module import Parallel

STEPS, MORE, KEEP = 4, 10, 2
CHANGES = ("write_text", "write_piece", "make_folder", "rename", "remove")
PAIRS = (  # a model, the grid of the job, another grid
    ("mlp", "2x1", "1x3"), ("mlp", "3x1", "2x1"), ("mlp", "4x1", "2x2"), ("tied", "4", "2x2"), ("tied", "2x2", "3"),
    ("ladder", "2", "stage:2"), ("ladder", "stage:2", "2"), ("ladder", "stage:2x2", "3"), ("ladder", "2", "stage:2x2"),
)  # fmt: skip


class Killed(BaseException):
    """The process is gone."""


def space_only(grid, model):
    """The ladder in one piece."""
    live = Grid(grid)
    embed, middle, convolved, head = divided.segments(live.axes, 0.0)

    def forward(p, ids, labels):
        x, h = embed(p, ids)
        return head(p, convolved(p, middle(p, h), x), x, labels)[0]

    rows, copied = [Shard(0) for _ in live.axes], [Copied() for _ in live.axes]
    patterns = ("embed.weight", "position", "blocks.*.*", "mix", "conv.*", "norm.*", "scale")
    inputs = {"ids": rows, "labels": rows}
    made = Program(live, forward, inputs, dict.fromkeys(patterns, copied))
    said = replace(divided.description(grid, 1), placement=None, edges=(), outputs=(), loss="")
    return Parallel(made, said, module_values(model), dtype=torch.float64)


def job(kind, grid):
    """This rank's model, its optimizer, and a step of training by number."""
    if kind != "ladder":
        model, inputs = make(kind)
        live = Grid(grid)
        parallel = Parallel(PROGRAMS[kind](live), describe(model, inputs(0), live), module_values(model))
    else:
        inputs, model = (lambda number: divided.batch(seed=number)), divided.ladder()
        if "stage" in grid:
            at = (0, 1, 1, 0)
            parallel = divided.parallel(grid, at, divided.named("gpipe", at, 2), model)
        else:
            parallel = space_only(grid, model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=0.01, amsgrad=True)

    def step(number):
        optimizer.zero_grad()
        loss = parallel(**inputs(number))
        getattr(loss, "loss", loss).backward()
        optimizer.step()

    return parallel, optimizer, step


def ranks_of(grid):
    return GridShape.parse(grid).size


def copied(parallel, optimizer):
    """Everything, whole; and this rank's parts to the bit."""
    state = {name: value.clone() for name, value in parallel.full_state_dict().items()}
    kept = parallel.full_optimizer_state_dict(optimizer)
    return SimpleNamespace(state=state, kept=kept["state"], groups=kept["param_groups"], random=kept["random"])


@functools.cache
def uninterrupted(kind, grid):
    """The whole state after each number of steps."""

    def rank():
        parallel, optimizer, step = job(kind, grid)
        states = [copied(parallel, optimizer)]
        for number in range(STEPS + MORE):
            step(number)
            states.append(copied(parallel, optimizer))
        return states

    return simulate(ranks_of(grid), rank)[0]


def saving(kind, grid, folder, beside, reached, raised):
    """A job that saves after each step; notes the checkpoints that it was told of, and who was told of a failure."""

    def rank():
        parallel, optimizer, step = job(kind, grid)
        try:
            for number in range(STEPS):
                step(number)
                if beside:
                    begun = parallel.start_save(folder, optimizer, step=number + 1, keep=KEEP)
                    reached.add(number)  # the one before has ended
                else:
                    parallel.save(folder, optimizer, step=number + 1, keep=KEEP)
                    reached.add(number + 1)
            if beside:
                begun.wait()
                reached.add(STEPS)
        except AutoparError:
            raised.append(parallel.grid.rank)

    simulate(ranks_of(grid), rank)


def interfered(patch, draw, changes, what):
    """From a drawn change of the disk on, everybody is gone, or one rank is, or the disk is full for a while."""
    at, lock, counts = draw.randrange(changes), threading.Lock(), itertools.count()
    length = draw.choice((1, 2, 5, changes)) if what == "full" else changes
    hit = set()

    def failing(real):
        def change(*given):
            with lock:
                number = next(counts)
                here = threading.get_ident()
                if at <= number < at + length:
                    hit.add(here)
                    if what == "full":
                        raise OSError(28, "No space left on device")
                    if what == "all" or here == min(hit, key=list(hit).index):
                        raise Killed
            return real(*given)

        return change

    for name in CHANGES:
        patch.setattr(durable, name, failing(getattr(durable, name)))


@functools.cache
def changes_of(kind, grid, beside, folders_of):
    """How many changes of the disk a job without interruption makes."""
    folder, count = folders_of(), itertools.count()

    def counted(real):
        def change(*given):
            next(count)
            return real(*given)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(durable, name, counted(getattr(durable, name)))
        saving(kind, grid, folder, beside, set(), [])
    return next(count)


def damaged(draw, path):
    """Something happens to a checkpoint; what is to be said of it."""
    files = sorted(path.glob("rank-*"))
    index, file, what = path / "index.json", draw.choice(files), draw.randrange(5)
    if what == 0:
        index.write_bytes(index.read_bytes()[: draw.randrange(index.stat().st_size)])
    elif what == 1:
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
    elif what == 2:
        file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    elif what == 3:
        file.unlink()
    else:
        index.unlink()


def resumed(kind, grid, folder, total):
    def rank():
        parallel, optimizer, step = job(kind, grid)
        found = parallel.load(folder, optimizer)
        steps = total(found.step)
        for number in range(found.step, steps):
            step(number)
        return found, copied(parallel, optimizer)

    return simulate(ranks_of(grid), rank)[0]


def assert_close(found, expected):
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_close(found[name], value)
        elif torch.is_tensor(value) and value.is_floating_point():
            scale = max(float(value.abs().max()), 1e-30) if value.numel() else 1.0
            assert value.numel() == 0 or float((found[name] - value).abs().max()) <= 1e-12 * scale, name


def assert_same(found, expected):
    torch.testing.assert_close(found.state, expected.state, rtol=0, atol=0)
    torch.testing.assert_close(found.kept, expected.kept, rtol=0, atol=0)
    assert (found.groups, found.random) == (expected.groups, expected.random)


def interrupted(seed, make_folder):
    """Draw a case, and see it through."""
    draw = random.Random(seed)
    kind, grid, other = PAIRS[seed % len(PAIRS)]
    beside, what = draw.random() < 0.5, draw.choice(("all", "one", "full", "damaged"))
    folder, reached, raised = make_folder(), set(), []
    with pytest.MonkeyPatch.context() as patch:
        if what != "damaged":
            interfered(patch, draw, changes_of(kind, grid, beside, make_folder), what)
        with suppress(Killed):
            saving(kind, grid, folder, beside, reached, raised)
    if what == "full":
        assert sorted(raised) in ([], list(range(ranks_of(grid)))), "what goes wrong is raised on all ranks or on none"
    whole = [int(path.name[5:]) for path, _, faults in folders.listed(folder) if not faults]
    last = max(reached, default=0)
    assert not last or max(whole) >= last, "a checkpoint that the job was told of is lost"
    hurt = None
    if what == "damaged" or (len(whole) > 1 and draw.random() < 0.3):
        hurt = folders.step_folder(folder, max(whole))
        damaged(draw, hurt)
        whole.remove(max(whole))
    if not whole:
        with pytest.raises(CheckpointError, match="no checkpoint"):
            resumed(kind, grid, folder, lambda _: 0)
        return
    found, state = resumed(kind, grid, folder, lambda _: STEPS + 1)
    assert found.step == max(whole)
    assert hurt is None or found.passed[0].startswith(f"{hurt.name}: ")
    assert_same(state, uninterrupted(kind, grid)[STEPS + 1])
    found, state = resumed(kind, other, folder, lambda step: step + MORE)
    assert found.step == max(whole)
    expected = uninterrupted(kind, grid)[found.step + MORE]
    assert_close(state.state, expected.state)
    assert_close(state.kept, expected.kept)


@pytest.fixture
def make_folder(tmp_path_factory):
    return functools.partial(tmp_path_factory.mktemp, "saves")


@pytest.mark.parametrize("seed", [0, 5])
def test_a_drawn_interruption(seed, make_folder):
    interrupted(seed, make_folder)


@pytest.mark.zoo
@pytest.mark.parametrize("seed", range(6, 186))
def test_drawn_interruptions(seed, make_folder):
    interrupted(seed, make_folder)
