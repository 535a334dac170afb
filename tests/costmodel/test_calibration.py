"""From measurements of a known machine to its profile, and back from the profile's text."""

import dataclasses
import math

import made_up
import pytest

from autopar.costmodel import calibration_reader
from autopar.costmodel.calibration import calibrate
from autopar.errors import ConfigError
from autopar.ir import machine as machines
from autopar.ir.calibration_data import TimedMove
from autopar.ir.conversions import PRIMITIVES
from autopar.ir.machine import LINK_MOVES, LOCAL_MOVES, Fit, load
from autopar.ir.machine_toml import number, text
from autopar.ir.units import bytes_exact, rate_text

BASE = load("cpu")
POINT = {
    **{"primitive": "gather", "direction": "forward", "place": "intra", "ranks": 2, "before": 1, "after": 2},
    "seconds": [1.0],
}


def calibrated(tmp_path, base=BASE, **given):
    return calibrate(
        calibration_reader.read_measurements(made_up.written(tmp_path, made_up.raw(**given))), base, "mine"
    )


def test_a_known_machine_on_one_host(tmp_path):
    found = calibrated(tmp_path)
    machine = found.machine
    assert found.noise == ()
    assert (machine.name, machine.cores_per_node, machine.ranks_per_node) == ("mine", 2, BASE.ranks_per_node)
    assert (machine.inter, machine.overlap_inter, machine.memory_bytes) == (BASE.inter, None, BASE.memory_bytes)
    assert machine.overlap == 0.1
    assert {(one.place, one.move) for one in machine.fits} == {
        *(("local", move) for move in LOCAL_MOVES),
        *(("intra", move) for move in LINK_MOVES),
    }
    for one in machine.fits:
        alpha, beta = made_up.RATES[one.place]
        assert (one.alpha, one.until, one.beta) == (
            pytest.approx(alpha, rel=1e-3),
            (),
            (pytest.approx(beta, rel=1e-3),),
        )
        assert one.ranks == (1 if one.place == "local" else 2)
    assert machine.intra.alpha == pytest.approx(1e-5, rel=1e-3)
    assert machine.intra.beta == pytest.approx(5e9, rel=1e-3)
    assert max(row.curve.worst_error for row in found.rows) < 1e-2


def test_rates(tmp_path):
    machine = calibrated(tmp_path).machine
    for work, forward, backward in (("matmul", 1e11, 8e10), ("conv", 2e11, 1e11), ("pointwise", 2e9, 2e9)):
        assert machine.rate(work, "float32") == pytest.approx(forward, rel=1e-3)
        assert machine.rate(work, "float32", backward=True) == pytest.approx(backward, rel=1e-3)
    assert machine.rate("matmul", "float64") == pytest.approx(5e10, rel=1e-3)
    assert machine.rate("matmul", "bfloat16") == pytest.approx(4e11, rel=1e-3)
    assert machine.memory_bandwidth == pytest.approx(2.5e10)
    assert machine.launch_floor == pytest.approx(4e-6)
    assert dict(machine.update) == pytest.approx({"sgd": 9e9, "momentum": 8e9, "adamw": 7e9})


def test_several_hosts(tmp_path):
    found = calibrated(tmp_path, places=(0, 0, 2, 2), cores=4)
    machine = found.machine
    assert (machine.ranks_per_node, machine.cores_per_node) == (2, 4)
    assert machine.inter.beta == pytest.approx(1.2e8, rel=1e-3)
    assert machine.inter.alpha == pytest.approx(2e-4, rel=1e-3)
    assert (machine.overlap, machine.overlap_inter) == (0.1, 0.9)
    assert machine.fit("inter", "sum").beta == (pytest.approx(1.2e8, rel=1e-3),)


def test_one_rank_per_host(tmp_path):
    machine = calibrated(tmp_path, places=(0, 1)).machine
    assert (machine.ranks_per_node, machine.intra, machine.overlap) == (1, BASE.intra, BASE.overlap)
    assert machine.fit("local", "slice") is not None
    assert machine.fit("intra", "sum") is None
    assert machine.fit("inter", "sum") is not None


def test_ranks_that_share_cores_are_told_as_if_they_did_not(tmp_path):
    apart, crowded = calibrated(tmp_path).machine, calibrated(tmp_path, cores=1).machine
    assert crowded.memory_bandwidth == apart.memory_bandwidth
    assert crowded.rate("conv", "float32") == apart.rate("conv", "float32")
    assert crowded.fit("local", "slice") == apart.fit("local", "slice")
    one, other = apart.fit("intra", "sum"), crowded.fit("intra", "sum")
    assert other.alpha == pytest.approx(one.alpha / 2)
    assert other.beta == pytest.approx([2 * rate for rate in one.beta])


def test_links_of_the_base_stay_where_nothing_was_measured(tmp_path):
    kept = Fit("inter", "sum", 4, 1e-3, (), (1e8,))
    base = dataclasses.replace(BASE, fits=(kept, Fit("intra", "sum", 4, 1e-3, (), (1e8,))))
    machine = calibrated(tmp_path, base=base).machine
    assert machine.fit("inter", "sum") == kept
    assert machine.fit("intra", "sum").ranks == 2


def test_noise_is_told_by_how_much(tmp_path):
    found = calibrated(tmp_path, noise=0.5)
    assert len(found.noise) > 9
    assert all("repeats spread by 50% of their median, more than 30%" in one for one in found.noise)


def test_a_poor_fit_is_told_by_how_much(tmp_path):
    given = made_up.raw()
    sums = [one for one in given["moved"] if one["primitive"] in ("all_sum", "copy")]
    for one in sums:
        factor = 1 if math.log(one["before"], 4) % 2 < 1 else 4
        one["seconds"] = [seconds * factor for seconds in one["seconds"]]
    (said,) = calibrate(calibration_reader.read_measurements(made_up.written(tmp_path, given)), BASE, "mine").noise
    assert said.startswith("sum (intra): the fit is off by ")
    assert said.endswith("at half of the points, more than 20%")


@pytest.mark.parametrize("places", [(0, 0), (0, 0, 2, 2), (0, 1)])
def test_the_text_is_the_profile(tmp_path, places):
    machine = calibrated(tmp_path, places=places).machine
    path = tmp_path / "mine.toml"
    path.write_text(text(machine, ["a note"], {"inter": "a mark"}))
    assert machines.load(path) == machine
    assert path.read_text().startswith("# a note\n")
    assert "[inter]  # a mark\n" in path.read_text()


@pytest.mark.parametrize("name", machines.shipped())
def test_shipped_profiles_survive_being_written(tmp_path, name):
    path = tmp_path / "copy.toml"
    path.write_text(text(load(name), [], {}))
    assert load(path) == load(name)


def test_numbers_for_people():
    assert [number(x) for x in (6.42e9, 2.9e-6, 0.5, 0.0, 125000000.0, 3.0)] == [
        "6.42e9",
        "2.9e-6",
        "0.5",
        "0.0",
        "1.25e8",
        "3.0",
    ]
    assert [float(number(x)) for x in (1 / 3, 1e300, 123456789.123)] == [1 / 3, 1e300, 123456789.123]
    assert [rate_text(x) for x in (6.42e9, 1.25e8, 10.0)] == ["6.42 GB/s", "125 MB/s", "10 B/s"]
    assert [bytes_exact(x) for x in (65536.0, 2.0**20, 100.0, 1e6)] == ["64KiB", "1MiB", "100", "1000000"]


def test_bytes_of_a_measurement_are_those_of_the_price():
    def bytes_of(primitive, direction, before, after):
        return calibration_reader.priced_bytes(TimedMove(primitive, direction, "intra", 2, before, after, (1.0,)))

    assert bytes_of("split", "forward", 100, 50) == 50  # a slice
    assert bytes_of("split", "adjoint", 100, 50) == 100  # a gather
    assert bytes_of("zero_fill", "forward", 50, 100) == 150  # reads and writes
    assert bytes_of("keep", "forward", 100, 100) == 100
    assert bytes_of("reduce_scatter", "adjoint", 100, 50) == 100
    assert bytes_of("halo", "forward", 10, 10) == 10
    assert {one for row in PRIMITIVES.values() for one in row.moves if one} == {*LOCAL_MOVES, *LINK_MOVES} - {
        "halo",
        "gradient_sum",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "version 1, where this autopar reads version 2"),
        ({"cores": 0}, "0 cores"),
        ({"places": []}, "no places"),
        ({"moved": [POINT | {"primitive": "gathr"}]}, "'gathr' is no primitive"),
        ({"moved": [POINT | {"seconds": [0.0]}]}, "gather: [0.0] seconds"),
        ({"moved": 3}, "cannot be read"),
    ],
)  # fmt: skip
def test_files_that_hold_no_measurements(tmp_path, change, said):
    with pytest.raises(ConfigError) as caught:
        calibration_reader.read_measurements(made_up.written(tmp_path, made_up.raw(**change)))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        calibration_reader.read_measurements(tmp_path / "none.json")
