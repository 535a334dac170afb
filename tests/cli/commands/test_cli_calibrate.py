"""`autopar calibrate`: from measurements to a file, refusals before anything is written, and one real job of two ranks."""

import json
import subprocess
import sys
from pathlib import Path

import made_up
import pytest
from cli_case import done, refused, run, snapshot

from autopar.ir.machine import load


def calibrate(folder, *words, **given):
    raw = made_up.written(folder, made_up.raw(**given))
    return ("calibrate", "--from", raw, "-o", folder / "mine.toml", *words)


def test_a_profile_from_a_file_of_measurements(tmp_path):
    out = done(*calibrate(tmp_path), columns=160)
    machine = load(tmp_path / "mine.toml")
    assert machine.name == "mine"
    assert machine.intra.beta == pytest.approx(5e9, rel=1e-3)
    for said in (
        "gather: split' reduce_scatter' gather all_gather",
        "10 us",
        "5 GB/s",
        "matmul a matmul float64 forward",
        "inside a host   10 us, 5 GB/s per rank",
        f"wrote           {tmp_path / 'mine.toml'}, in 2 s",
    ):
        assert said in out
    text = (tmp_path / "mine.toml").read_text()
    assert "[inter]  # not measured: all ranks were on one host" in text
    assert text.startswith("# Measured by `autopar calibrate`: 2 ranks on 1 hosts of 2 cores, made up.\n")


def test_several_hosts(tmp_path):
    out = done(*calibrate(tmp_path, places=(0, 0, 2, 2)), columns=160)
    assert "between hosts   200 us, 120 MB/s per rank, 240 MB/s per host" in out
    text = (tmp_path / "mine.toml").read_text()
    assert "not measured: all" not in text
    assert load(tmp_path / "mine.toml").ranks_per_node == 2


def test_json(tmp_path):
    found = json.loads(done(*calibrate(tmp_path, "--json")))
    assert (found["file"], found["hosts"], found["ranks"], found["noise"]) == (str(tmp_path / "mine.toml"), 1, 2, [])
    (gather,) = [one for one in found["fits"] if one["move"] == "gather"]
    assert gather["beta"] == [pytest.approx(5e9, rel=1e-3)]
    assert gather["median_error"] < 0.01
    assert found["machine"]["cores_per_node"] == 2
    assert {one["unit"] for one in found["rates"]} == {"op/s", "B/s", "s"}


def test_another_base(tmp_path):
    done(*calibrate(tmp_path, "--base", "h100"))
    assert load(tmp_path / "mine.toml").inter == load("h100").inter


def test_noise_is_refused_and_nothing_is_written(tmp_path):
    words = calibrate(tmp_path, noise=0.5)
    before = snapshot(tmp_path)
    status, out, err = run(*words, columns=160)
    assert status == 1
    assert "gather (intra): repeats spread by 50% of their median, more than 30%" in err
    assert "nothing was written" in err
    assert err.splitlines()[-1].startswith("  fix: measure while nothing else runs")
    assert "seconds by bytes" in out
    assert snapshot(tmp_path) == before
    status, out, err = run(*words, "--json")
    assert (status, json.loads(out)["file"]) == (1, None)
    assert snapshot(tmp_path) == before


def test_noise_that_is_accepted_is_written_down(tmp_path):
    done(*calibrate(tmp_path, "--accept-noise", noise=0.5))
    text = (tmp_path / "mine.toml").read_text()
    assert "# Noisy: gather (intra): repeats spread by 50%" in text
    assert load(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "mine.txt"), "is not a .toml file in a folder that exists"),
        (("-o", "none/mine.toml"), "is not a .toml file in a folder that exists"),
        (("-n", "2"), "together with -n"),
        (("--hosts", "a,b"), "together with --hosts"),
        (("--", "-hosts", "a,b"), "together with options for mpiexec"),
        (("--base", "h10O"), "did you mean 'h100'?"),
        (("--from", "none.json"), "cannot be read"),
    ],
)
def test_bad_words(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    given = calibrate(tmp_path, *words)
    before = snapshot(tmp_path)
    assert said in refused(*given)
    assert snapshot(tmp_path) == before


def test_a_job_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("autopar.jobs.launch.launch", lambda *words, **more: 7)
    assert run("calibrate", "-o", tmp_path / "mine.toml")[0] == 7
    assert snapshot(tmp_path) == {}


def test_what_is_started(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("autopar.jobs.launch.launch", lambda *words, **more: calls.append((words, more)) or 1)
    run("calibrate", "-n", "4", "--hosts", "a:2,b:2", "--quick", "-o", tmp_path / "mine.toml", "--", "-launcher", "ssh")
    ((target, ranks, given), more) = calls[0]
    assert (target, ranks) == ("autopar.runtime.calibration.run", 4)
    assert given[0] == "--out"
    assert given[2:] == ["--quick"]
    assert more["options"][1:] == ["a:2,b:2", "-launcher", "ssh"]
    assert more["options"][0] in ("-hosts", "--host")


@pytest.mark.zoo
@pytest.mark.spmd
def test_two_ranks(tmp_path):
    """A whole calibration, small; whether this machine is noisy just now is not what is tested."""
    script = Path(sys.executable).parent / "autopar"
    words = [script, "calibrate", "-n", "2", "--quick", "--accept-noise", "-o", tmp_path / "mine.toml", "--json"]
    job = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert job.returncode == 0, job.stderr
    found = json.loads(job.stdout)
    machine = load(tmp_path / "mine.toml")
    assert found["hosts"] == 1
    assert {one.move for one in machine.fits if one.place == "intra"} == {
        *("gather", "scatter", "sum", "all_to_all", "halo", "gradient_sum")
    }
    assert "A quick trial: not to be used." in (tmp_path / "mine.toml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]
