"""Where the ranks of `run` and `verify` start: `--hosts`, and words behind -- for mpiexec."""

import subprocess
import sys

import pytest
from cli_case import done, refused, run, write

LOADED = """
import sys
import autopar.jobs.launch
from autopar.cli.main import main

autopar.jobs.launch.launch = lambda *words, **more: 7
print(*map(main, [["run", sys.argv[1]], ["verify", sys.argv[1]], ["verify", "--adjoint"]]))
print({"torch", "mpi4py.MPI"} & set(sys.modules))
"""


@pytest.fixture
def built(tmp_path):
    done("compile", write(tmp_path), "--grid", "2", "-o", tmp_path / "build")
    return tmp_path / "build"


@pytest.fixture
def launched(monkeypatch):
    calls = []
    monkeypatch.setattr("autopar.jobs.launch.launch", lambda *words, **more: calls.append((words, more)) or 7)
    monkeypatch.setattr("autopar.jobs.launch.host_options", lambda hosts: ["-hosts", hosts])
    return calls


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), []),
        (("--hosts", "a:1,b:1"), ["-hosts", "a:1,b:1"]),
        (("--", "-launcher", "ssh"), ["-launcher", "ssh"]),
        (("--hosts", "a,b", "--steps", "3", "--", "-launcher", "ssh"), ["-hosts", "a,b", "-launcher", "ssh"]),
    ],
)
def test_run_starts_where_it_is_told(words, options, built, launched):
    assert run("run", built, *words)[0] == 7
    ((given, more),) = launched
    assert given[:2] == (built / "program.py", 2)
    assert more["options"] == options


def test_verify_starts_where_it_is_told(built, launched):
    assert run("verify", built, "--hosts", "a,b")[0] == 7
    assert run("verify", "--adjoint", "--hosts", "a,b", "--", "-launcher", "ssh")[0] == 7
    assert [more["options"] for _, more in launched] == [["-hosts", "a,b"], ["-hosts", "a,b", "-launcher", "ssh"]]


def test_a_launcher_loads_neither_torch_nor_mpi(built):
    line = [sys.executable, "-c", LOADED, str(built)]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "7 7 7\nset()\n"


def test_words_for_mpiexec_begin_with_an_option(built, launched):
    text = refused("run", built, "--", "a:2,b:2")
    assert "'a:2,b:2' for mpiexec" in text
    assert "  rule: what goes to mpiexec begins with one of its options" in text
    assert not launched


def test_other_commands_pass_nothing_on():
    assert "- -launcher\n" in refused("diff", "one", "two", "--", "-launcher", status=2)
