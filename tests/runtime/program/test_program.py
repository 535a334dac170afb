"""A program under mpiexec: it trains as the sequential model does, and the compiler is never imported."""

import pytest
from compiled_folder import PROGRAM, run, write

pytestmark = pytest.mark.spmd

SEEN = """
    import sys
    roots = ["networkx", "pulp", "highspy", "msgspec", "transformers"]
    roots += [f"autopar.{name}" for name in ("capture", "ops", "codegen", "partitioner", "costmodel", "compiler", "plan", "cli")]
    loaded = [name for name in sys.modules if any(name == root or name.startswith(root + ".") for root in roots)]
    sys.stdout.write(f"loaded {sorted(loaded)}\\n")
"""


def test_a_program_trains_under_mpi_without_the_compiler(tmp_path):
    program = write(tmp_path, program=PROGRAM + SEEN)
    process = run(program, "--steps", 4, "--compare", 4)
    assert process.returncode == 0, process.stderr
    said = process.stdout.splitlines()
    assert "mpiexec" in said[0]
    assert said[0].endswith("program.py --steps 4 --compare 4")
    differences = [float(line.split()[-1]) for line in said if line.startswith("compared")]
    assert len(differences) == 4
    assert max(differences) < 1e-5
    assert [line for line in said if line.startswith("loaded")] == ["loaded []"] * 2
