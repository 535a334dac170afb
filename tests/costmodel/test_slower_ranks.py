"""Classes of ranks from what each took for the same work: those that differ by more than the noise, and no others."""

import made_up
import pytest

from autopar.costmodel.calibration import calibrate
from autopar.costmodel.calibration_reader import read_measurements
from autopar.ir.machine import RankClass, load
from autopar.ir.machine_toml import text

BASE = load("cpu")


def machine(tmp_path, *took, spread=0.01, **more):
    """The profile where ranks took so many seconds, twice each, with a spread about it."""
    alone = [[seconds * (1 - spread), seconds, seconds, seconds * (1 + spread)] for seconds in took]
    raw = made_up.raw(places=(0,) * len(took), cores=len(took), alone=alone, **more)
    return calibrate(read_measurements(made_up.written(tmp_path, raw)), BASE, "mine").machine


def test_ranks_that_differ_by_noise_are_alike(tmp_path):
    alike = machine(tmp_path, 1.0, 1.05, 0.98, 1.02)
    assert alike.ranks == ()
    assert machine(tmp_path, 1.0, 1.3, spread=0.2).ranks == ()
    assert alike.rate("matmul", "float32") == pytest.approx(1e11, rel=1e-3)


def test_ranks_that_are_slower_are_said_to_be(tmp_path):
    found = machine(tmp_path, 1.0, 2.0, 1.02, 1.98, 2.03, 4.0)
    assert found.ranks == (RankClass(ranks="1,3-4", speed=0.5), RankClass(ranks="5", speed=0.25))
    assert found.rate("matmul", "float32") == pytest.approx(4e11, rel=1e-3), (
        "the slowest rank's time is four times the fastest's"
    )
    assert found.launch_floor == pytest.approx(1e-6)
    assert found.intra.beta == pytest.approx(5e9, rel=1e-3)


def test_nothing_is_said_where_ranks_were_not_compared(tmp_path):
    raw = made_up.raw()
    assert calibrate(read_measurements(made_up.written(tmp_path, raw)), BASE, "mine").machine.ranks == ()


def test_stalls_are_written_where_they_take_a_part_of_a_ranks_time(tmp_path):
    def stalls(base=BASE, **more):
        raw = read_measurements(made_up.written(tmp_path, made_up.raw(**more)))
        return calibrate(raw, base, "mine").machine

    often = stalls(stopped=[[2.0, 10, 0.5], [3.0, 15, 0.75]])
    assert often.stalls == pytest.approx((5.0, 0.05))
    (tmp_path / "mine.toml").write_text(text(often, [], {}))
    assert load(tmp_path / "mine.toml") == often
    assert stalls(stopped=[[3.0, 1, 0.05], [3.0, 0, 0.0]]).stalls == (0.0, 0.0)
    assert stalls(often).stall_rate is None
