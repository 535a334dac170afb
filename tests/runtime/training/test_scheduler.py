"""Boundaries that move while a program trains, by clocks that the test sets."""

import pytest
import torch
from small_programs import PROGRAMS, describe, make

from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.load_balance import BalanceSettings
from autopar.runtime.training.scheduler import Scheduler, split_extents


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(Parallel):
    """Communication takes no time on the test's clock."""

    communication_seconds = 0.0


def trained(kind, grid, slow, steps, settings):
    """Train with `slow(rank)` seconds per row of the first input; returns losses, state, moves and rows."""

    def rank():
        model, inputs = make(kind)
        live = Grid(grid)
        p = Timed(PROGRAMS[kind](live), describe(model, inputs(0), live), module_values(model))
        optimizer = torch.optim.SGD(p.parameters(), lr=0.1, momentum=0.9)
        clock = Clock()
        scheduler = Scheduler(p, optimizer, settings, clock)
        losses, rows = [], []
        first = p.description.inputs[0].name
        for step in range(steps):
            with scheduler.step():
                optimizer.zero_grad()
                loss = p(**inputs(step))
                loss.backward()
                optimizer.step()
                rows.append(p.input_shape(first)[0])
                clock.now += slow(live.rank) * rows[-1]
            losses.append(loss.detach())
        return torch.stack(losses), p.full_state_dict(), scheduler.moves, rows

    size = 1
    for one in grid.split("x"):
        size *= int(one)
    return simulate(size, rank)


@pytest.mark.parametrize(("kind", "grid"), [("tied", "2"), ("mlp", "2x2")])
def test_a_slow_rank_gets_less_and_the_numbers_stay(kind, grid):
    settings = BalanceSettings(window=2, rest=1)
    still = trained(kind, grid, lambda rank: 1.0, 8, settings)
    moving = trained(kind, grid, lambda rank: 3.0 if rank == 0 else 1.0, 8, settings)
    total = still[0][3][0] + still[-1][3][0]
    for before, after in zip(still, moving, strict=True):
        assert before[2] == []
        assert [step for step, _ in after[2]] == [3]
        torch.testing.assert_close(after[0], before[0], rtol=1e-12, atol=0)
        for name, one in before[1].items():
            torch.testing.assert_close(after[1][name], one, rtol=1e-10, atol=1e-14)
    best = min(max(3.0 * rows, total - rows) for rows in range(1, total))
    assert max(3.0 * moving[0][3][-1], moving[-1][3][-1]) == best
    assert {str(one[2]) for one in moving} == {str(moving[0][2])}


def test_axes_that_split_parameters_do_not_move():
    def rank():
        model, inputs = make("mlp")
        grid = Grid("2x2")
        return split_extents(Parallel(PROGRAMS["mlp"](grid), describe(model, inputs(0), grid), module_values(model)))

    assert simulate(4, rank) == [{0: (5,)}] * 4


def test_nothing_moves_on_a_single_rank():
    assert all(moves == [] for _, _, moves, _ in trained("tied", "1", lambda rank: 1.0, 4, BalanceSettings(window=1)))
