"""A program under mpiexec: it trains as the sequential model does, is profiled, and the compiler is never imported.

The program is hand-written, so that no plan knows its expressions.
"""

import pytest
from compiled_folder import PROGRAM, write
from warm_ranks import found_by, warm

from autopar.ir.profile import load_profile
from autopar.jobs.launch import command, host_options, launch

SEEN = """
    import sys
    roots = ["networkx", "pulp", "highspy", "transformers"]
    roots += [f"autopar.{name}" for name in ("capture", "ops", "codegen", "costmodel", "compiler", "plan", "cli")]
    roots += [f"autopar.partitioner.{name}" for name in ("formulation", "placement")]
    loaded = [name for name in sys.modules if any(name == root or name.startswith(root + ".") for root in roots)]
    sys.stdout.write(f"loaded {sorted(loaded)}\\n")
"""


@pytest.mark.spmd
def test_a_program_trains_and_is_profiled_under_mpi_without_the_compiler(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("autopar.jobs.launch.command", lambda *words: warm(command(*words)))
    for name, value in found_by().items():
        monkeypatch.setenv(name, value)
    program = write(tmp_path, program=PROGRAM + SEEN)
    words = ["--steps", "6", "--compare", "4", "--profile"]
    assert launch(program, 2, words, options=host_options("localhost:2")) == 0
    said = capfd.readouterr().out.splitlines()
    assert "mpiexec" in said[0]
    assert said[0].endswith("program.py --steps 6 --compare 4 --profile")
    differences = [float(line.split()[-1]) for line in said if line.startswith("compared")]
    assert len(differences) == 4
    assert max(differences) < 1e-5
    assert [line for line in said if line.startswith("loaded")] == ["loaded []"] * 2
    told = [line.split()[0] for line in said]
    assert [word for word in told if word != "loaded"][-5:] == ["profiled", "profile", "trained", "plan", "program"]
    check_profile(program)


def check_profile(program):
    folder = program.parent
    found = load_profile(folder, program.read_text(), (folder / "plan.json").read_text(), 2)
    assert [one.text.split("(")[0] for one in found.expressions] == ["torch.relu", ""]
    assert all(expression.place is None for expression in found.expressions)
    for rank in found.ranks:
        held = 4 * (3 * 5 / 2 + 5 / 2 + 5 * 2 / 2 + 2)  # parameters in float32: less than is held in a step
        assert rank.peak > held
        assert len(rank.steps) == len(rank.plain) == 2
        kinds = {piece.kind for piece in rank.pieces}
        assert {"forward", "backward", "communication", "update"} <= kinds
