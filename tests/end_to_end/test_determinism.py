"""The same input and settings give the same plan and program, bit for bit: in other processes, and whatever the time limit."""

import hashlib
import os
import subprocess
import sys

import pytest
from compiling import SLOW, compiled
from spmd import MODULES

from autopar.ir.plan_file import to_json

CODE = """
import hashlib
from compiling import SLOW, compiled
from autopar.ir.plan_file import to_json
for name, options in {cases!r}:
    one = compiled(name, machine=SLOW, **options)
    print(hashlib.sha256((one.source + to_json(one.plan)).encode()).hexdigest())
"""
CASES = [
    ("gpt", {"grid": "2x2", "memory": "24KiB"}),  # solved without the limit, too
    ("conv", {"grid": "auto", "ranks": 4}),
]
MORE = [
    ("gpt", {"grid": "2x2", "plan": "megatron", "ban": ["*.attn.*: b0@*"]}),
    ("conv", {"grid": "2", "solver": "ilp"}),
    ("kinds", {"grid": "2x2"}),
]


def digest(one):
    return hashlib.sha256((one.source + to_json(one.plan)).encode()).hexdigest()


@pytest.mark.parametrize("cases", [CASES, pytest.param(MORE, marks=pytest.mark.zoo)])
def test_a_process_that_hashes_otherwise_plans_alike(cases):
    code = CODE.format(cases=cases)
    environment = os.environ | {"PYTHONHASHSEED": "31337", "PYTHONPATH": MODULES}
    environment.pop("AUTOPAR_TESTS_SHARED", None)  # it captures by itself
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    mine = [digest(compiled(name, machine=SLOW, **options)) for name, options in cases]
    assert other.communicate(timeout=120)[0].split() == mine


@pytest.mark.parametrize("solver", ["auto", "ilp", "search"])
def test_an_optimal_plan_does_not_depend_on_the_time_limit(solver):
    short, long = (compiled("gpt", "2x2", machine=SLOW, solver=solver, time_limit=limit) for limit in (5.0, 500.0))
    assert short.plan.solver.gap == long.plan.solver.gap == 0
    assert short.source == long.source
    assert (short.plan.nodes, short.plan.parameters, short.plan.solver) == (
        long.plan.nodes,
        long.plan.parameters,
        long.plan.solver,
    )
