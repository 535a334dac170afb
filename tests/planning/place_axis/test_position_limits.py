"""Positions of ranks that are not alike: the slow one computes less, the small one holds less, links are the worst."""

import dataclasses

import pytest
from compiling import CPU, SLOW, compiled_once

from autopar.errors import InfeasiblePlan
from autopar.ir.grid import GridShape
from autopar.ir.machine import Fit, Link, RankClass, linked
from autopar.planning.place_axis.position_limits import position_links


def placed(*classes, **options):
    machine = dataclasses.replace(SLOW, ranks=classes)
    return compiled_once("wide_mlp", "stage:2x1", machine, microbatches=4, **options).plan


def work(plan):
    """Seconds that each position would work at speed 1."""
    limits = plan.placement.limits
    return [seconds * one.speed for seconds, one in zip(plan.placement.seconds, limits, strict=True)]


def test_a_slow_position_computes_less():
    alike, first, second = placed(), placed(RankClass(ranks="0", speed=0.25)), placed(RankClass(ranks="1", speed=0.25))
    assert [one.speed for one in first.placement.limits] == [0.25, 1.0]
    assert first.machine.speeds(2) == (0.25, 1.0)
    assert work(first)[0] < work(alike)[0] + 1e-12
    assert work(second)[1] < work(alike)[1] + 1e-12
    assert work(first)[0] < work(second)[0]
    assert first.placement.makespan < 4 * alike.placement.makespan


def test_a_small_position_holds_less():
    room = 60_000
    plan = placed(RankClass(ranks="1", memory_bytes=room))
    assert plan.placement.bytes[1] <= room < max(placed().placement.bytes)
    with pytest.raises(InfeasiblePlan):
        placed(RankClass(ranks="0-1", memory_bytes=10_000))


def test_links_between_positions_are_the_worse_of_the_two():
    own = Link(1e-3, 1e6)
    machine = dataclasses.replace(CPU, ranks_per_node=2, ranks=(RankClass(nodes="1", inter=own),))
    links = position_links(machine, GridShape.parse("stage:3x2"))
    assert links.alpha[0][1] == links.alpha[1][2] == own.alpha
    assert links.beta[0][1] == links.beta[1][2] == 1 / own.beta
    assert links.alpha[0][2] == CPU.inter.alpha
    assert links.alpha[1][1] == CPU.intra.alpha


def test_exchanges_of_all_take_the_worst_link():
    fits = (Fit("inter", "sum", 2, 1e-4, (), (1e8,)), Fit("intra", "sum", 2, 1e-6, (), (1e9,)))
    slow = RankClass(ranks="3", speed=0.5, inter=Link(CPU.inter.alpha * 4, CPU.inter.beta / 2))
    machine = dataclasses.replace(CPU, ranks=(slow, RankClass(ranks="2", intra=CPU.intra)), fits=fits)
    assert linked(machine, 2) == machine
    worst = linked(machine, 4)
    copies = Link(CPU.intra.alpha * 1.5, CPU.intra.beta / 1.5)  # half of them made at half the speed
    assert (worst.intra, worst.inter) == (copies, slow.inter)
    assert worst.fits[0] == Fit("inter", "sum", 2, 4e-4, (), (0.5e8,))
    assert (worst.fits[1].alpha, *worst.fits[1].beta) == pytest.approx((1.5e-6, 1e9 / 1.5))
    assert worst.speeds(4) == (1.0, 1.0, 1.0, 0.5)
    assert linked(worst, 4) == worst
