"""The command line itself: its names are frozen here, and a word that it does not know is refused with the nearest one."""

import argparse
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_case import refused, run

import autopar
from autopar.cli.main import parser
from autopar.partitioner.solvers.solve import METHODS
from autopar.planning.baselines import BASELINES

# Changing this breaks people's scripts: new options are fine, others need a note in the changelog.
SURFACE = {
    "compile": "model --grid -n --machine --memory --solver --time-limit --pin --ban --measure --recompute --microbatches --plan "
    "--schedule --segments --queue --optimizer --loss --return --batch --tokens --batch-sizes -o --output --json",
    "compare": "model --grid -n --machine --memory --solver --time-limit --pin --ban --measure --recompute --microbatches --plan "
    "--schedule --segments --queue --optimizer --loss --return --json",
    "inspect": "folder --view --json",
    "diff": "first second --most --json",
    "explain": "folder name --most --record --json",
    "run": "folder --steps --compare --save --evaluate-every --metrics --weights --rename --allow-missing --allow-unexpected "
    "--checkpoint --every --keep --resume --stop-after --elastic --max-restarts --on-nonfinite --seed --dtype --balance --profile "
    "--hosts",
    "predict": "folder inputs -o --output --weights --rename --allow-missing --allow-unexpected --checkpoint --seed --dtype "
    "--hosts",
    "checkpoint": "action folder --to --dtype --shard-bytes --like --rename --overwrite --json",
    "verify": "folder --adjoint -n --grid --steps --seed --verbose --hosts --json",
    "calibrate": "-n -o --output --hosts --base --from --accept-noise --quick --json",
    "simulate": "folder --grid --ranks --scaling --batch --machine --slow --replan --jitter --seed --steps --trace --svg --json",
    "report": "folder --json --trace --top",
    "replan": "folder --profile -o --output --machine-file --most --json",
    "solve": "problem --time-limit --solver --json",
}


def commands():
    found = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def words(action):
    return action.option_strings or [action.dest]


def test_names_of_commands_and_options():
    found = {
        name: " ".join(word for action in command._actions for word in words(action) if word not in ("-h", "--help"))
        for name, command in commands().items()
    }
    assert found == SURFACE


def test_choices_are_those_of_the_compiler():
    options = {action.dest: action for action in commands()["compile"]._actions}
    assert tuple(options["solver"].choices) == METHODS
    assert tuple(options["plan"].choices) == ("auto", *BASELINES)
    assert options["grid"].required


@pytest.mark.parametrize("command", ["", *SURFACE])
def test_every_help_says_what_every_option_is_for(command):
    status, out, err = run(*command.split(), "--help", columns=100)
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: autopar {command}".rstrip())
    assert all(len(line) <= 100 for line in out.splitlines())
    for action in commands()[command]._actions if command else ():
        assert action.help, action.dest


def test_version():
    assert run("--version") == (0, f"autopar {autopar.__version__}\n", "")
    assert importlib.metadata.version("autopar") == autopar.__version__


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "without COMMAND"),
        ("compil net.py --grid 2", "command 'compil' is unknown; did you mean 'compile'?"),
        ("--vresion", "--vresion; did you mean '--version'?"),
        ("compile", "without model, --grid"),
        ("compile net.py", "without --grid"),
        ("compile net.py --gird 2", "--gird; did you mean '--grid'?"),
        ("compile net.py --gird=2", "--gird=2; did you mean '--grid'?"),
        ("compile net.py --grid 2 --solvr ilp", "--solvr; did you mean '--solver'?"),
        ("compile net.py --grid 2 --solver ipl", "--solver 'ipl' is unknown; did you mean 'ilp'?"),
        ("compile net.py --grid 2 --optimizer adam", "--optimizer 'adam' is unknown; did you mean 'adamw'?"),
        ("compile net.py other.py --grid 2", "'other.py' is too much"),
        ("compile net.py --grid", "--grid: expected one argument"),
        ("compile net.py --grid 2 --memory -4GiB", "--memory: expected one argument"),
        ("compile net.py --grid 2 --time-limit soon", "--time-limit: 'soon' is not a number of seconds above 0"),
        ("compile net.py --grid 2 --time-limit inf", "--time-limit: 'inf' is not a number of seconds above 0"),
        ("compile net.py --grid 2 --time-limit 0", "--time-limit: '0' is not a number of seconds above 0"),
        ("inspect build --view modul", "--view 'modul' is unknown; did you mean 'module'?"),
        ("inspect", "without folder"),
        ("explain build", "without name"),
        ("explain build fc --most 0", "--most: '0' is not a whole number of at least 1"),
        ("run build other", "'other' is too much"),
        ("run build --steps -1", "--steps: '-1' is not a whole number of at least 0"),
        ("run build --compare x", "--compare: 'x' is not a whole number of at least 0"),
        ("run build --stps 3", "--stps; did you mean '--steps'?"),
        ("run build --dtype float23", "--dtype 'float23' is unknown; did you mean 'float32'?"),
        ("verify build --steps 0", "--steps: '0' is not a whole number of at least 1"),
        ("verify", "without folder"),
        ("verify --adjoint -n 0", "-n: '0' is not a whole number of at least 1"),
        ("verify --adjoint -n 2 --grid 2", "-n with --grid"),
        ("verify build --grid 2", "-n and --grid with a folder"),
        ("verify build --sed 1", "--sed; did you mean '--seed'?"),
    ],
)
def test_words_that_nobody_knows(line, said):
    text = refused(*line.split(), status=2)
    assert said in text
    assert text.splitlines()[-1].startswith("  fix: see `autopar")


def test_value_of_an_unknown_option_is_not_blamed():
    text = refused("compile", "net.py", "--grid", "2", "--machin", "h100", "--json", status=2)
    assert "- --machin; did you mean '--machine'?" in text
    assert "h100" not in text


def test_all_unknown_options_at_once():
    text = refused("compile", "net.py", "--gird", "2", "--memry", "1GiB", status=2)
    assert "'--grid'" in text
    assert "'--memory'" in text


def test_interrupt_is_no_traceback(monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("autopar.cli.commands.inspect.load", interrupted)
    assert run("inspect", "build") == (130, "", "autopar: interrupted\n")


def test_installed_command(tmp_path):
    """The console script of this environment, on a terminal that knows ASCII only, with a folder of another script."""
    name = "b\u00e4u"
    script = Path(sys.executable).parent / "autopar"
    done = subprocess.run(
        [script, "inspect", name],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("autopar: b\\xe4u: there is no such folder")
