"""Segments that move away from a slow position, by simulated clocks; and in a divided program, whose numbers stay."""

import math
import random
from contextlib import nullcontext
from dataclasses import replace

import divided_programs as divided
import pytest
import torch

from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.partitioner.placement.assignment import pipeline
from autopar.partitioner.placement.problem import CallWork, ParameterUse, PlacementProblem, TensorUse
from autopar.partitioner.placement.relocation import at_places, best_move
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.simulate import makespan
from autopar.runtime import simulate
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.balance_settings import BalanceSettings
from autopar.runtime.training.scheduler import Scheduler
from autopar.runtime.training.segment_balance import SegmentBalancer

SEGMENTS, SLOWED, FREED = 8, 12, 40


def problem(seconds, positions, microbatches=8):
    return PlacementProblem(
        calls=tuple(CallWork(f"s{i}", one / 3, 2 * one / 3) for i, one in enumerate(seconds)),
        tensors=tuple(TensorUse(f"t{i}", i, (i + 1,), 1e4, 1e4) for i in range(len(seconds) - 1)),
        parameters=tuple(ParameterUse(f"p{i}", 1e6, (i,)) for i in range(len(seconds))),
        positions=(PositionLimits(),) * positions,
        links=PositionLinks.uniform(positions, 1e-5, 1e-10),
        microbatches=microbatches,
    )


class Line:
    """Segments in a row on positions of which the last is slow for a time."""

    def __init__(self, positions=2, slow=range(SLOWED, FREED), noise=0.0, cheap=1.0, seed=0):
        self.draw = random.Random(seed)
        seconds = [self.draw.uniform(0.008, 0.012) for _ in range(SEGMENTS)]
        planned = [one / cheap if i % 3 == 0 else one for i, one in enumerate(seconds)]
        self.real, self.positions, self.slow, self.noise = problem(seconds, positions), positions, slow, noise
        self.places = tuple(i * positions // SEGMENTS for i in range(SEGMENTS))
        self.lists = auto(pipeline(self.at(-1), at_places(self.places)), tries=0)
        while (better := best_move(self.at(-1), self.places, self.lists, lambda size: 0.0, 1000)) is not None:
            self.places, self.lists = better.places, better.lists
        self.balancer = SegmentBalancer(problem(planned, positions), BalanceSettings())
        self.done, self.moves = 0, []

    def at(self, step):
        """The problem with the speeds of a step."""
        last = PositionLimits(0.5 if step in self.slow else 1.0)
        return replace(self.real, positions=(*self.real.positions[:-1], last))

    def run(self, until):
        while self.done < until:
            speeds = [one.speed for one in self.at(self.done).positions]
            whole = [8 * (call.forward + call.backward) for call in self.real.calls]
            noise = [math.exp(self.draw.gauss(0, self.noise)) for _ in whole]
            self.balancer.observe(
                [one / speeds[at] * much for one, at, much in zip(whole, self.places, noise, strict=True)]
            )
            self.done += 1
            move = self.balancer.consider(self.places, self.lists, lambda size: size * 1e-9)
            if move is not None:
                self.balancer.moved()
                self.places, self.lists = move.places, move.lists
                self.moves.append(self.done)
        return self.makespan(self.done - 1)

    def makespan(self, step):
        return makespan(pipeline(self.at(step), at_places(self.places)), self.lists)

    def best(self, step):
        found = best_move(self.at(step), self.places, self.lists, lambda size: 0.0, 1000)
        return self.makespan(step) if found is None else found.after


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (0.03, 1), (0.03, 2)])
def test_segments_leave_a_slowed_position_within_eight_steps_and_come_back(noise, seed):
    line = Line(noise=noise, seed=seed)
    first = line.run(SLOWED)
    slowed = line.makespan(SLOWED)
    after = line.run(SLOWED + 8)
    assert slowed - after >= 0.9 * (slowed - line.best(SLOWED))
    line.run(FREED)
    assert line.run(FREED + 8) <= 1.05 * first
    assert len(line.moves) <= 3


def test_equal_positions_with_noise_keep_their_segments():
    line = Line(slow=(), noise=0.06, seed=2)
    line.run(150)
    assert line.moves == []


@pytest.mark.parametrize("slow", [range(SLOWED, 99), range(99)])
def test_wrong_prices_and_a_position_that_was_slow_from_the_start_are_told_apart(slow):
    """A third of the segments is priced three times too cheap."""
    line = Line(slow=slow, cheap=3.0, noise=0.02)
    assert line.run(40) <= 1.15 * line.best(39)


def test_a_move_that_is_refused_is_not_thought_of_again():
    line = Line()
    line.balancer.moved = lambda: line.balancer.refused("no room")
    line.run(SLOWED + 5)
    tried = list(line.moves)
    line.run(FREED)
    assert len(tried) == 1
    assert line.moves == tried
    assert line.balancer.reason == "no room"


def test_a_divided_program_moves_its_segments_and_computes_the_same(monkeypatch):
    """By clocks that are set: position 1 is three times slower after some steps."""
    monkeypatch.setattr(Parallel, "segment_seconds", property(lambda self: tuple(self.clocks)))
    model, at, text = divided.ladder(), (0, 0, 1, 1), divided.named("gpipe", (0, 0, 1, 1), 2, 2)

    def use(watched):
        parallel = divided.parallel("stage:2", at, text, model, 0.0)
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-2)
        parallel.clocks, here = [0.0] * 4, parallel.grid.place.index
        scheduler = Scheduler(
            parallel, optimizer, clock=lambda: 0.0
        )  # ranks exchange what they measured after every step
        losses, places = [], list(at)
        for number in range(24):
            with scheduler.step() if watched else nullcontext():
                optimizer.zero_grad()
                loss = parallel(**divided.batch(seed=number)).loss
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                for segment, position in enumerate(places):
                    slow = 3.0 if number >= 10 and position == 1 else 1.0
                    parallel.clocks[segment] += slow if position == here else 0.0
            if places != (now := [segment.at for segment in parallel.program.forward.segments]):
                places, parallel.clocks = now, [0.0] * 4
        return losses, parallel.full_state_dict(), places, scheduler.lines, scheduler.reason

    for before, after in zip(simulate(2, lambda: use(False)), simulate(2, lambda: use(True)), strict=True):
        assert before[2] == list(at) != after[2]
        assert any("position 1 computes at 0." in line for line in after[3]), after[3]
        torch.testing.assert_close(after[0], before[0], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(after[1], before[1], rtol=1e-10, atol=1e-14)
