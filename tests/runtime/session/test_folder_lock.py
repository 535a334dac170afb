"""Two jobs that save into one folder: the second is refused before it trains, and told of the first."""

import errno
import fcntl
import os
import subprocess
import sys

from autopar.errors import CheckpointError
from autopar.runtime import simulate
from autopar.runtime.session import folder_lock as lock
from autopar.runtime.session.folder_lock import lock_folder
from autopar.runtime.transport.world import default_world

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
file.write('{"host": "elsewhere", "process": 4711, "since": 0.0}')
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def on_two_ranks(folder):
    found = []

    def rank():
        try:
            found.append(lock_folder(folder, default_world()))
        except CheckpointError as error:
            found.append(str(error))

    simulate(2, rank)
    return found


def test_another_process_is_named_on_all_ranks_and_its_end_frees_the_folder(tmp_path):
    line = [sys.executable, "-c", HOLD, str(tmp_path / lock.NAME)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        refused = on_two_ranks(tmp_path)
        other.kill()
    assert len(set(refused)) == 1
    assert "another job saves into it: process 4711 on elsewhere, since 1970-01-01" in refused[0]
    assert [one.note for one in on_two_ranks(tmp_path)] == ["", ""]


def test_one_job_locks_a_folder_for_several_models(tmp_path):
    held = on_two_ranks(tmp_path)
    assert [one.note for one in [*held, *on_two_ranks(tmp_path)]] == [""] * 4
    del held
    handle = os.open(tmp_path / lock.NAME, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more
    os.close(handle)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    notes = [one.note for one in on_two_ranks(tmp_path)]
    assert notes == [notes[0]] * 2
    assert "a file system without locks" in notes[0]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert all("cannot be written" in one for one in on_two_ranks(tmp_path / "file" / "saved"))
