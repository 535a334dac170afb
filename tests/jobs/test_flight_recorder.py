"""What ranks note of themselves is what others read: calls, counts, states; nothing stays behind."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from autopar.jobs import flight_recorder
from autopar.jobs.flight_recorder import CALLS, GROUPS, FlightRecorder


@pytest.fixture
def file(tmp_path):
    return flight_recorder.make(tmp_path, 3)


def text(number):
    return flight_recorder.text(f"call {number}", "build/program.py:7", "a = 1", "float32 [2]", "model", (1, 2))


def test_calls_and_counts_are_read_as_they_were_noted(file):
    first, second = (FlightRecorder(file, place, 3, rank) for place, rank in enumerate((4, 7)))
    group, other = first.join(50), first.join(60)
    for number in range(1, 16):
        assert first.enter(group, text(number)) == number
        assert first.waiting() == number
        first.leave()
        assert first.waiting() == 0
    assert second.join(50).count == 0
    first.repeat(other, text(99), 3)
    mine, its = flight_recorder.read(first.memory)
    assert (mine.rank, its.rank, mine.process, mine.inside, its.inside) == (4, 7, os.getpid(), True, False)
    assert (mine.entered, its.entered) == ({50: 15, 60: 0}, {50: 0})
    assert [call.what for call in mine.calls] == ["call 99", *(f"call {n}" for n in range(15, 6, -1))]
    assert len(mine.calls) == CALLS
    assert mine.waiting == mine.calls[0]
    assert (mine.calls[0].group, mine.calls[0].number, mine.calls[1].number) == (60, 3, 15)
    assert str(mine.calls[1]) == "call 15 at build/program.py:7, float32 [2], over model"
    assert mine.calls[0].peers == (1, 2)
    assert mine.since == mine.calls[0].begin
    assert [seen.calls for seen in flight_recorder.read(file.read_bytes())] == [mine.calls, ()]


def test_places_of_groups_are_used_again_and_more_groups_than_places_are_not_counted(file):
    one = FlightRecorder(file, 0, 3, 0)
    groups = [one.join(key) for key in range(1, GROUPS + 2)]
    assert [one.enter(group, text(1)) for group in groups] == [1] * GROUPS + [0]
    one.quit(groups[3])
    one.quit(groups[3])
    assert one.enter(groups[3], text(1)) == 0
    assert one.enter(one.join(77), text(1)) == 1
    assert flight_recorder.read(one.memory)[0].entered == {key: 1 for key in range(1, GROUPS + 1) if key != 4} | {77: 1}


def test_a_text_that_is_too_long_keeps_what_matters(file):
    one = FlightRecorder(file, 0, 3, 0)
    said = flight_recorder.text(
        "w" * 100, "x" * 500 + "/program.py:7", "s" * 400, "t" * 200, "o" * 90, tuple(range(5000, 5200))
    )
    one.enter(one.join(1), said)
    (seen,) = flight_recorder.read(one.memory)
    assert seen.calls[0].where.endswith("/program.py:7")
    one.enter(one.join(2), flight_recorder.text("w", "x", "\u00e9" * 100, "t", "o", ()))
    assert flight_recorder.read(one.memory)[0].calls[0].what == "w"


def test_a_journal_that_nobody_holds_has_ended(file):
    one, other = FlightRecorder(file, 0, 3, 0), FlightRecorder(file, 1, 3, 1)
    del other
    gc.collect()
    assert [seen.state for seen in flight_recorder.read(one.memory)] == ["running", "ended"]


def test_one_rank_of_a_host_may_speak(file):
    ranks = [FlightRecorder(file, place, 3, place) for place in range(3)]
    assert [one.claim() for one in ranks] == [True, False, False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the state of another process is read from /proc")
def test_the_state_of_a_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = flight_recorder.started(process.pid)
    assert born
    assert flight_recorder.process_state(process.pid, born) == "running"
    process.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 30
    while flight_recorder.process_state(process.pid, born) == "running" and time.monotonic() < until:
        time.sleep(0.01)
    assert flight_recorder.process_state(process.pid, born) == "stopped"
    seen = flight_recorder.RankRecord(0, process.pid, born, "stopped", True, 0.0, {}, ())
    flight_recorder.kill(dataclasses.replace(seen, born=born + 1))
    assert flight_recorder.process_state(process.pid, born) == "stopped", "another process is left alone"
    flight_recorder.kill(seen)
    process.communicate()
    assert flight_recorder.process_state(process.pid, born) == "gone"
    flight_recorder.kill(seen)  # and is no error
    assert flight_recorder.process_state(os.getpid(), born + 1) == "gone", "another process under the same number"
    assert flight_recorder.process_state(process.pid, 0) == "running", "where nothing is known nobody is accused"
