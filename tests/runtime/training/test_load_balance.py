"""Decisions about boundaries, by simulated clocks: how soon, how well, and never for noise."""

import math
import random

import pytest

from autopar.errors import ConfigError
from autopar.ir.grid import GridShape
from autopar.partitioner.cuts.best_cuts import CutTask, best_cuts, seconds
from autopar.partitioner.cuts.rank_work import RankWork, StepWork, loads, parts_of
from autopar.runtime.grid.link_times import line_seconds, lines_of
from autopar.runtime.training.balance_settings import BalanceSettings, parse_balance
from autopar.runtime.training.evidence import by_chance, without_cause
from autopar.runtime.training.load_balance import (
    Balancer,
    CurrentCuts,
    between,
    speeds_of,
    with_whole_work,
)


def work(seconds, *factors):
    """Seconds that are cut along axes of the grid: each factor is an axis and its extent."""
    return RankWork(tuple(((axis,), extent) for axis, extent in factors), (seconds,))


class Job:
    """A job whose plan says `planned` (or what is true), with ranks as slow as `slowness(step)` says."""

    def __init__(
        self, sizes, works, slowness, planned=None, noise=0.0, spikes=0.0, seed=0, legal=lambda cuts: True, refused=""
    ):
        self.step = StepWork(sizes, tuple(works))
        self.cuts = self.home = (None,) * len(sizes)
        self.extents = tuple(
            tuple(sorted({n for w in works for (axis,), n in w.factors if axis == a})) for a in range(len(sizes))
        )
        self.slowness, self.noise, self.spikes, self.legal = slowness, noise, spikes, legal
        self.balancer = Balancer(StepWork(sizes, tuple(planned or works)), BalanceSettings(), self.cuts)
        self.draw = random.Random(seed)
        self.done, self.moves, self.reason, self.refused = 0, [], "", refused

    def run(self, until):
        """Take steps, and make the moves that are decided."""
        while self.done < until:
            every = [time * self._noise() for time in self.times()]
            self.balancer.observe(every, max(every), self.cuts)
            self.done += 1
            verdict = self.balancer.consider(CurrentCuts(self.cuts, self.extents, self.legal))
            self.reason = verdict.reason
            if verdict.move is not None and self.refused:
                self.balancer.refused(verdict.move, self.refused)
            elif verdict.move is not None:
                self.balancer.moved(verdict.move)
                self.cuts = verdict.move.cuts
            if verdict.move is not None:
                self.moves.append((self.done, verdict.move))
        return self.longest()

    def _noise(self):
        return math.exp(self.draw.gauss(0, self.noise)) * (3.0 if self.draw.random() < self.spikes else 1.0)

    def times(self, cuts=None, step=None):
        """The seconds of every rank without noise, in the step that comes."""
        found = loads(self.step, (1.0,) * len(self.step.works), self.cuts if cuts is None else cuts)
        slowness = self.slowness(self.done if step is None else step)
        return [load * slow for load, slow in zip(found, slowness, strict=True)]

    def longest(self, cuts=None, step=None):
        """The seconds of the slowest rank."""
        return max(self.times(cuts, step))

    def best(self, step=None):
        """The shortest that any cuts make it."""
        speeds = tuple(1 / slow for slow in self.slowness(self.done if step is None else step))
        task = CutTask(self.step, (1.0,) * len(self.step.works), speeds, self.extents, self.legal)
        return min(max(seconds(task, best_cuts(task, start))) for start in (self.cuts, self.home))


SLOWED, FREED = 12, 40
CASES = {
    "batch": ((2,), [work(0.1, (0, 32)), work(0.003)]),
    "heads and features": ((2,), [work(0.02, (0, 12)), work(0.05, (0, 3072)), work(0.03, (0, 50257)), work(0.01)]),
    "rows": ((2,), [work(0.06, (0, 64)), work(0.02, (0, 32)), work(0.01, (0, 16)), work(0.005, (0, 8)), work(0.002)]),
    "three": ((3,), [work(0.2, (0, 48)), work(0.01)]),
    "two by two": (
        (2, 2),
        [work(0.1, (0, 16), (1, 12)), work(0.2, (0, 16), (1, 3072)), work(0.02, (0, 16)), work(0.005)],
    ),
}


def ranks(case):
    return math.prod(CASES[case][0])


def halved(case, rank=-1, slow=2.0):
    """One rank takes longer from step 12 to step 40."""
    count = ranks(case)
    return lambda step: [slow if i == rank % count and SLOWED <= step < FREED else 1.0 for i in range(count)]


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("case", CASES)
def test_what_a_slowed_rank_costs_is_regained_within_eight_steps_and_given_back(case, noise):
    job = Job(*CASES[case], halved(case), noise=noise, seed=3)
    first = job.run(SLOWED - 1)
    slowed = job.longest(step=SLOWED)
    after = job.run(SLOWED + 8)
    assert slowed - after >= 0.9 * (slowed - job.best())
    assert len(job.moves) <= 2
    job.run(FREED)
    assert job.run(FREED + 8) <= 1.05 * first


@pytest.mark.parametrize("noise", [{"noise": 0.06}, {"noise": 0.03, "spikes": 1 / 6}])
@pytest.mark.parametrize("case", CASES)
def test_balanced_ranks_with_noise_stay(case, noise):
    """Spikes: one step in six takes three times as long, on one rank or another."""
    job = Job(*CASES[case], lambda step: [1.0] * ranks(case), seed=5, **noise)
    job.run(300)
    assert job.moves == []
    assert "no rank is slower" in job.reason or "too few steps" in job.reason


@pytest.mark.parametrize("seed", range(8))
def test_wrong_prices_are_found_out(seed):
    """One class of work is priced three times too cheap, and one rank is slow from the first step on."""
    draw = random.Random(seed)
    sizes = draw.choice([(2,), (3,), (2, 2)])
    axes = range(len(sizes))
    works = [work(draw.uniform(0.01, 0.1), (a, n)) for a in axes for n in (16, draw.choice([12, 24]), 768)]
    works += [work(draw.uniform(0.05, 0.3), *((a, draw.choice([16, 768])) for a in axes)) for _ in axes]
    works.append(work(draw.uniform(0.001, 0.05)))
    cheap = draw.randrange(len(works))
    planned = [
        work(w.seconds[0] / 3, *((a, n) for (a,), n in w.factors)) if i == cheap else w for i, w in enumerate(works)
    ]
    slow = draw.randrange(math.prod(sizes))
    job = Job(
        sizes,
        works,
        lambda step: [2.5 if i == slow else 1.0 for i in range(math.prod(sizes))],
        planned,
        0.02,
        seed=seed,
    )
    assert job.run(20) <= 1.1 * job.best()


def test_moves_show_what_a_plan_has_wrong():
    """What no cut makes smaller is said to be little, and is a third of the work."""
    works = [work(0.06, (0, 600)), work(0.03)]
    job = Job((2,), works, lambda step: [1.0, 1.0 if step < 30 else 3.0], [work(0.06, (0, 600)), work(0.001)])
    job.run(60)
    assert job.longest() <= 1.03 * job.best()
    assert 0.01 < job.balancer.corrections[-1] * job.balancer.step.works[-1].seconds[0] < 0.04


def test_what_cannot_move_is_said_and_costs_no_search():
    calls = []

    def legal(cuts):
        calls.append(cuts)
        return cuts == (None,)

    job = Job((2,), [work(0.1, (0, 8))], lambda step: [1.0, 2.0], legal=legal)
    job.run(30)
    searched = len(calls)
    job.run(60)
    assert job.moves == []
    assert job.reason == "rank 1 computes at 0.50 of the fastest rank; no cuts save 3% of a step"
    assert len(calls) == searched


def test_a_move_that_is_refused_is_not_thought_of_again():
    job = Job(*CASES["batch"], halved("batch"), noise=0.02, refused="there is no room")
    job.run(36)
    assert len(job.moves) == 1
    assert "; there is no room" in job.reason


def test_a_move_has_to_pay_within_the_horizon():
    job = Job(*CASES["heads and features"], halved("heads and features"))
    job.run(SLOWED + 4)
    ((_, move),) = job.moves
    saved = move.before - move.after
    assert job.balancer.worth(move, 199 * saved)
    assert not job.balancer.worth(move, 201 * saved)
    half = job.balancer.partway(move, 0.5)
    assert move.after < half.after < move.before
    assert half.cuts == (between(2, None, move.cuts[0], 0.5),)


def test_after_several_moves_more_certainty_is_asked_for():
    """A rank that is slow in turns is followed, but not at once for ever."""
    job = Job((2,), [work(0.1, (0, 64))], lambda step: [1.0, 3.0 if step // 6 % 2 else 1.0])
    job.run(200)
    assert len(job.moves) <= 12
    assert sum(at > 100 for at, _ in job.moves) <= sum(at <= 100 for at, _ in job.moves)


def test_ranks_without_work_and_works_without_factors():
    assert speeds_of([2.0, 0.0, 4.0], [1.0, 0.5, 1.0]) == (2.0, 2.0, 4.0)
    step = with_whole_work(StepWork((2,), (work(0.5), work(1.0, (0, 4)))))
    assert [one.seconds for one in step.works] == [(1.0,), (0.5,)]
    assert with_whole_work(StepWork((2,), (work(1.0, (0, 4)),))).works[-1].seconds == (0.01,)


@pytest.mark.parametrize("often", [0.1, 0.3])
def test_chance_is_counted(often):
    """Against all outcomes of six steps."""
    outcomes = [format(n, "06b").count("1") for n in range(64)]
    for least in range(7):
        total = sum(often**n * (1 - often) ** (6 - n) for n in outcomes if n >= least)
        assert by_chance(6, least, often) == pytest.approx(total)
    assert without_cause(0, 0) == pytest.approx(0.1)
    assert without_cause(20, 60) == pytest.approx(20.5 / 65)


def test_settings_are_checked():
    for wrong in ({"window": 0}, {"threshold": -1.0}, {"agreement": 1.5}, {"doubt": 0.0}):
        with pytest.raises(ConfigError, match="window is 1 to"):
            BalanceSettings(**wrong)
    assert parse_balance("threshold=0.5, window=9") == BalanceSettings(threshold=0.5, window=9)
    for text, line in (
        ("of", "did you mean 'off'"),
        ("windows=4", "did you mean 'window'"),
        ("window=4.5", "no whole number"),
    ):
        with pytest.raises(ConfigError, match=line):
            parse_balance(text)
    assert isinstance(Balancer(StepWork((2,), (work(1.0, (0, 4)),)), BalanceSettings(), (None,)), Balancer)


@pytest.mark.parametrize(("slow", "rank"), [(False, 1.0), (True, 1.0), (True, 2.0)])
def test_a_slow_link_is_told_from_a_slow_rank(slow, rank):
    """Communication on the rank that waits least rises; boundaries stay if ranks compute as before, and only then is it a link.

    It is the one between ranks 2 and 3: whose messages are fast wait for these over the other axis, where those do not.
    """
    lines = lines_of(GridShape.parse("2x2"))
    job = Job(*CASES["batch"], lambda step: [1.0, rank if step >= 30 else 1.0], noise=0.02, seed=4)
    draw = random.Random(2)
    for step in range(1, 60):
        more = 0.02 * (slow and step > 30)
        ranks = [[0.005 + more, 0.005], [0.005 + more, 0.005], [0.005, 0.005 + more], [0.005, 0.005 + more]]
        noise = math.exp(draw.gauss(0, 0.1))
        job.balancer.communicated((0.01 + more) * noise, line_seconds(lines, ranks))
        job.run(step)
    assert (job.moves == []) == (rank == 1.0)
    assert ("a link is slow over axis1 between ranks 2, 3, which" in job.reason) == (slow and rank == 1.0)
    assert ("link" in job.reason) == (slow and rank == 1.0)


class Padded(Job):
    """Kernels compute whole blocks of 16 channels, of which neither the plan nor the works know."""

    def times(self, cuts=None, step=None):
        cuts = self.cuts if cuts is None else cuts
        slowness = self.slowness(self.done if step is None else step)
        found = [0.0] * self.step.ranks
        for one in self.step.works:
            for rank, part in enumerate(parts_of(one.factors[0][1], self.step.ranks, cuts[0])):
                found[rank] += one.seconds[0] * -(-part // 16) * 16 / one.factors[0][1]
        return [load * slow for load, slow in zip(found, slowness, strict=True)]


def test_what_was_seen_counts_more_than_what_is_predicted():
    """Of 64 channels 48 and 16 are best, and half of them on equal ranks; what lies between is slower than any model says."""
    works = [work(seconds, (0, extent)) for seconds, extent in ((0.2, 64), (0.12, 128), (0.12, 256), (0.1, 512))]
    job = Padded((2,), works, halved("batch", slow=2.1), noise=0.02, seed=2)
    first = job.run(SLOWED - 1)
    job.run(FREED)
    assert job.longest() <= 1.02 * job.longest(((0.0, 0.75, 1.0),))
    assert len(job.moves) <= 3
    job.run(FREED + 8)
    assert job.longest() <= 1.02 * first
    assert len(job.moves) <= 5
