"""A profile of a program on MPI ranks: hand-written, so that no plan knows its expressions; and the memory that it held."""

import pytest
from compiled_folder import run, write

from autopar.ir.profile import load_profile

pytestmark = pytest.mark.spmd


def test_a_profile_on_mpi_ranks(tmp_path):
    program = write(tmp_path)
    done = run(program, "--steps", 6, "--profile")
    assert done.returncode == 0, done.stderr
    said = [line.split()[0] for line in done.stdout.splitlines()]
    assert said[-5:] == ["profiled", "profile", "trained", "plan", "program"]
    folder = program.parent
    found = load_profile(folder, program.read_text(), (folder / "plan.json").read_text(), 2)
    assert [one.text.split("(")[0] for one in found.expressions] == ["torch.relu", ""]
    assert all(expression.place is None for expression in found.expressions)
    for rank in found.ranks:
        held = 4 * (
            3 * 5 / 2 + 5 / 2 + 5 * 2 / 2 + 2
        )  # parameters of two ranks in float32: less than is held in a step
        assert rank.peak > held
        assert len(rank.steps) == len(rank.plain) == 2
        kinds = {piece.kind for piece in rank.pieces}
        assert {"forward", "backward", "communication", "update"} <= kinds
