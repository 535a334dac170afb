"""Boundaries that move while a program trains, by clocks that the test sets."""

import dataclasses
import math
import threading

import pytest
import torch
from small_programs import HIDDEN, PROGRAMS, describe, make

from autopar.partitioner.cuts.best_cuts import best_cuts
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import WorkSpec
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training import load_balance
from autopar.runtime.training.attached_scheduler import AttachedScheduler
from autopar.runtime.training.balance_settings import BalanceSettings
from autopar.runtime.training.scheduler import Scheduler


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(Parallel):
    """Communication takes no time on the test's clock."""

    communication_seconds = 0.0


def described(kind, model, inputs, grid):
    """With what the plan would say of its work: the batch over the axes that split it, and features over the other."""
    names = grid.shape.names
    cuts = (((names[0],), 5), ((names[1],), HIDDEN)) if kind == "mlp" else ((names, 10),)
    return dataclasses.replace(describe(model, inputs(0), grid), work=(WorkSpec(cuts, 1.0),))


def trained(kind, grid, slow, steps, settings=None):
    """Train with `slow(rank)` seconds for what a rank has of all rows; returns losses, state, moves and every rank's part."""

    def rank():
        model, inputs = make(kind)
        live = Grid(grid)
        p = Timed(PROGRAMS[kind](live), described(kind, model, inputs, live), module_values(model))
        optimizer = torch.optim.SGD(p.parameters(), lr=0.1, momentum=0.9)
        clock = Clock()
        scheduler = Scheduler(p, optimizer, settings, clock)
        losses, parts = [], []
        first = p.description.inputs[0]
        for step in range(steps):
            with scheduler.step():
                optimizer.zero_grad()
                loss = p(**inputs(step))
                loss.backward()
                optimizer.step()
                part = p.input_shape(first.name)[0] / first.shape[0]
                part *= live.axes[1].part(HIDDEN) / HIDDEN if kind == "mlp" else 1.0
                parts.append(part)
                clock.now += slow(live.rank) * part
            losses.append(loss.detach())
        return torch.stack(losses), p.full_state_dict(), scheduler.moves, parts, scheduler.reason

    return simulate(math.prod(map(int, grid.split("x"))), rank)


@pytest.mark.parametrize(("kind", "grid"), [("tied", "2"), ("mlp", "2x2")])
def test_a_slow_rank_gets_less_and_the_numbers_stay(kind, grid):
    """On 2x2 the rows of both axes move, of one of them with parameters, momentum and a buffer."""
    still = trained(kind, grid, lambda rank: 1.0, 9)
    moving = trained(kind, grid, lambda rank: 3.0 if rank == 0 else 1.0, 9)
    for before, after in zip(still, moving, strict=True):
        assert before[2] == []
        assert [step for step, _ in after[2]] == [6]
        torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=0)
        for name, one in before[1].items():
            torch.testing.assert_close(after[1][name], one, rtol=1e-10, atol=1e-14)
    slow = [3.0, *[1.0] * (len(moving) - 1)]
    first, last = (max(s * one[3][step] for s, one in zip(slow, moving, strict=True)) for step in (0, -1))
    assert last <= 0.67 * first
    assert {str(one[2]) for one in moving} == {str(moving[0][2])}
    assert {one[4] for one in still} <= {
        "no rank is slower than the others by 3% of a step for long",
        "the ranks are equally fast; no cuts save 3% of a step",
    }


def test_what_cannot_move_is_said():
    assert [reason for *_, reason in trained("tied", "1", lambda rank: 1.0, 2)] == ["there is one rank"]

    def rank():
        model, inputs = make("tied")
        live = Grid("2")
        return Scheduler(
            Parallel(PROGRAMS["tied"](live), describe(model, inputs(0), live), module_values(model))
        ).reason

    assert simulate(2, rank) == ["no call is split over an axis: there is no boundary to move"] * 2


def test_ranks_without_room_take_as_much_of_a_move_as_they_can(monkeypatch):
    """One rank alone objects; all move half as far."""
    monkeypatch.setattr(
        Parallel, "objections", lambda self, cuts, _: ["full"] if self.grid.rank and cuts["axis0"][1] < 0.25 else []
    )
    moved = trained("tied", "2", lambda rank: 9.0 if rank == 0 else 1.0, 7)
    assert [one[3][-1] for one in moved] == [0.3, 0.7]
    monkeypatch.setattr(Parallel, "objections", lambda self, cuts, _: ["no room"] * self.grid.rank)
    refused = trained("tied", "2", lambda rank: 9.0 if rank == 0 else 1.0, 7)
    assert [one[2] for one in refused] == [[], []]
    assert refused[0][4] == "rank 0 computes at 0.11 of the fastest rank; there is no room: no room"


def test_a_training_loop_need_not_know_of_it():
    """Two optimizers, one of which steps first; an evaluation and a schedule between steps; one of another model besides."""
    told = []

    def rank():
        model, inputs = make("mlp")
        live = Grid("2x2")
        p = Timed(PROGRAMS["mlp"](live), described("mlp", model, inputs, live), module_values(model))
        clock, other = Clock(), torch.nn.Linear(2, 2)
        watched = AttachedScheduler(p, BalanceSettings(), told.append if live.rank == 0 else lambda line: None, clock)
        first, *rest = p.parameters()
        optimizers = [torch.optim.AdamW([first]), torch.optim.SGD(rest, lr=0.1, momentum=0.9)]
        apart = torch.optim.SGD(other.parameters(), lr=0.1)
        shapes, losses = [], []
        for step in range(9):
            loss = p(**inputs(step))
            loss.backward()
            clock.now += 3.0 if live.rank == 0 and len(shapes) < 6 else 1.0
            for optimizer in (*optimizers, apart):
                optimizer.step()
            with torch.no_grad():
                p(**inputs(step))
            clock.now += 100.0  # a batch is read
            for optimizer in optimizers:
                optimizer.zero_grad()
            shapes.append(tuple(p.get_parameter("layers.0.weight").shape))
            losses.append(loss.detach())
        watched.detach()
        for optimizer in optimizers:
            optimizer.step()
        return losses, shapes, watched.lines, p.full_state_dict()

    every = simulate(4, rank)
    model, inputs = make("mlp")
    first, *rest = model.parameters()
    optimizers = [torch.optim.AdamW([first]), torch.optim.SGD(rest, lr=0.1, momentum=0.9)]
    for step in range(9):
        loss = model(**inputs(step))
        loss.backward()
        torch.testing.assert_close(every[0][0][step], loss.detach(), rtol=1e-12, atol=0)
        with torch.no_grad():
            model(**inputs(step))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, one in model.named_parameters():
        torch.testing.assert_close(every[0][3][name], one.detach(), rtol=1e-10, atol=1e-14)
    assert told == every[0][2] != []
    assert every[0][1][0] != every[0][1][-1]
    assert "after step 6: rank 0 computes at 0.44 of the fastest rank" in told[0]


def test_rank_0_decides_for_all(monkeypatch):
    """Ranks whose arithmetic differs in the last bits cut alike, and nothing is said where no rank is slow."""
    offsets, lock = {}, threading.Lock()

    def rounded_otherwise(task, cuts):
        with lock:
            off = offsets.setdefault(threading.get_ident(), 1e-9 * len(offsets))
        return tuple(axis and (*axis[:-2], axis[-2] + off, 1.0) for axis in best_cuts(task, cuts))

    monkeypatch.setattr(load_balance, "best_cuts", rounded_otherwise)
    asked = []
    agreed = Scheduler._agreed
    monkeypatch.setattr(Scheduler, "_agreed", lambda *words: asked.append(1) or agreed(*words))
    every = trained("tied", "2", lambda rank: 3.0 if rank == 0 else 1.0, 9)
    moves = [[move for _, move in one[2]] for one in every]
    assert len(offsets) == 2
    assert len(moves[0]) == 1
    assert moves[0] == moves[1]
    assert asked
    asked.clear()
    trained("tied", "2", lambda rank: 1.0, 9)
    assert not asked
