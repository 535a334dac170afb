"""What is shown last of a job that ends without a word of its own, for what MPICH and Open MPI print."""

import pytest

from autopar.errors import ConfigError
from autopar.jobs import ends, environment, launch

MPICH = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT node
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
"""
OPEN_MPI = """
prterun noticed that process rank
1 with PID 4712 on node a-very-long-name-of-a-host exited on
signal {}.
"""
EXITED = """
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-node-31028@1,1]
   Exit code:    3
"""


@pytest.mark.parametrize(
    ("status", "output", "said"),
    [
        (9, MPICH, ["because rank 1 was ended by SIGKILL (status 9)", "memory is short"]),
        (137, OPEN_MPI.format("9 (Killed)"), ["because rank 1 was ended by SIGKILL (status 137)", "memory is short"]),
        (135, OPEN_MPI.format("7 (Bus error)"), ["because rank 1 was ended by SIGBUS", "shared memory was too small"]),
        (3, EXITED, ["because rank 1 was killed or ended without a word (status 3)"]),
        (135, "", ["ended with status 135 (SIGBUS), before any rank said a word", "MiB are free"]),
        (-9, "", ["mpiexec itself was ended by SIGKILL, before any rank said a word"]),
        (255, "", ["ended with status 255, before any rank said a word", "are the hosts spelled right"]),
        (213, "All nodes are already filled.", ["ended with status 213; its own output above says why"]),
    ],
)
def test_an_end_is_accounted_for(tmp_path, status, output, said):
    (tmp_path / "process-4711").write_text("1")
    text = ends.account(tmp_path, status, output.encode(), [])
    assert all(part in text for part in said), text


@pytest.mark.parametrize("hosts", ["a:x", "a:0", "a:2,,b", "a:2:3", "a b", ""])
def test_hosts_that_are_no_list_are_refused_by_name(hosts):
    with pytest.raises(ConfigError, match="--hosts"):
        launch.host_options(hosts)


def test_a_pseudo_terminal_of_a_rank_is_none(monkeypatch):
    """Open MPI gives ranks one: the launcher, which knows where their output goes, is asked."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv(environment.TERMINAL, raising=False)
    assert environment.is_terminal()
    monkeypatch.setenv(environment.TERMINAL, "0")
    assert not environment.is_terminal()
