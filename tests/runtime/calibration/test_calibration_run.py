"""What the ranks of a calibration write, on simulated ranks; and that the cost model reads it as it is meant."""

import dataclasses
import itertools
import json
import time

import pytest

from autopar.costmodel import calibration_reader
from autopar.errors import ConfigError
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.machine import LINK_MOVES, LOCAL_MOVES
from autopar.runtime.calibration import (
    communication as calibration_moves,
)
from autopar.runtime.calibration import (
    compute,
    run,
)
from autopar.runtime.calibration.timer import BarrierTimer, Pace
from autopar.runtime.transport.threads import simulate
from autopar.runtime.transport.world import default_world

TINY = Pace(repeats=2, cleared=0, most=1024, patience=0.0)


def measure(places):
    return run.measure(default_world(), places, TINY, lambda text: None)


def test_every_primitive_is_measured_in_both_directions(tmp_path):
    found = simulate(4, lambda: measure([0, 0, 2, 2]))
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(dataclasses.asdict(found[0])))
    raw = calibration_reader.read_measurements(path)
    assert (raw.hosts, raw.ranks_per_node, len(raw.places)) == (2, 2, 4)
    moves = {(one.place, calibration_reader.movement_of(one)) for one in raw.moved}
    assert moves == {
        *(("local", move) for move in LOCAL_MOVES),
        *((place, move) for place in ("intra", "inter") for move in (*LINK_MOVES, "message")),
    }
    seen = {(one.primitive, one.direction) for one in raw.moved}
    priced = {
        (primitive, direction)
        for primitive, row in PRIMITIVES.items()
        for direction, move in zip(("forward", "adjoint"), row.moves, strict=True)
        if move
    }
    assert priced - {("gather", "adjoint")} <= seen
    assert PRIMITIVES["gather"].adjoint == PRIMITIVES["split"].forward
    assert {one.ranks for one in raw.moved} == {2}
    assert all(len(one.seconds) == 2 for one in raw.moved)
    assert 0 <= raw.overlap_intra <= 1
    assert 0 <= raw.overlap_inter <= 1
    assert {one.kind for one in raw.computed} == {"operator", "memory", "floor", "update"}
    assert raw == found[0]
    assert [len(seconds) for seconds in raw.alone] == ([2] * 4 if raw.cores >= 2 else [])


def test_as_many_ranks_compute_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(run, "cores", lambda world, places: 2)
    computing: list[int] = []
    exchanging: list[int] = []

    def rates(clock, tell):
        computing.append(default_world().rank)
        yield from itertools.islice(compute.rates(clock, tell), 4)

    def sent(clock, axis, place, tell):
        exchanging.append(default_world().rank)
        yield from calibration_moves.sent(clock, axis, place, tell)

    monkeypatch.setattr(run, "rates", rates)
    monkeypatch.setattr(run, "sent", sent)
    found = simulate(6, lambda: measure([0, 0, 0, 3, 3, 3]))
    assert sorted(computing) == [1, 2, 4, 5]
    assert sorted(exchanging) == sorted(2 * list(range(6)))
    assert [one.computed for one in found] == 6 * [found[0].computed]
    assert [one.moved for one in found] == 6 * [found[0].moved]


def test_one_rank_measures_what_it_computes():
    (raw,) = simulate(1, lambda: measure([0]))
    assert raw.moved == ()
    assert raw.overlap_intra is raw.overlap_inter is None
    assert raw.computed


def test_all_ranks_know_the_same():
    first, second = simulate(2, calibration_times)
    assert first == second


def test_repeats_that_differ_are_made_again_while_patience_lasts():
    calls = []

    def uneven():
        calls.append(None)
        time.sleep(0.002 * (len(calls) % 3 == 0))

    def count(patience):
        calls.clear()
        (seconds,) = simulate(1, lambda: BarrierTimer(default_world(), Pace(6, 0, 64, patience)).time(uneven))
        assert len(seconds) == 6
        return len(calls)

    assert count(0.0) == 2 + 6
    assert count(9.0) == 2 + 3 * 6
    assert count(1e-9) == 2 + 2 * 6


def calibration_times():
    return BarrierTimer(default_world(), TINY).time(lambda: None)


@pytest.mark.parametrize(("places", "each"), [([0], 1), ([0, 0], 2), ([0, 1], 1), ([0, 0, 0, 3, 3, 3], 3)])
def test_ranks_per_node(places, each):
    assert run.ranks_per_node(places) == each


@pytest.mark.parametrize("places", [[0, 0, 2], [0, 1, 0, 1], [0, 1, 1]])
def test_uneven_nodes_are_refused(places):
    with pytest.raises(ConfigError, match="equally many ranks each") as caught:
        run.ranks_per_node(places)
    assert str(caught.value).count("a node has the ranks") == 2
