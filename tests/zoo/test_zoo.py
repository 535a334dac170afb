"""The zoo: model families as users have them, small, on grids that do not divide their extents.

Every program must compute what its model computes: losses, every gradient, and all parameters and buffers after three
steps, in float64 under AdamW and in float32 under SGD. And next to none of its predicted compute may run on every rank
merely because an operator has no rule. All ranks run in this process; the machine profile makes communication cheap, so
that the planner splits what it can although the models are small.

Models that drop out do so: what they draw is compared as well. The pairs of `EVERY_TIME` run with all tests: a model of
every kind, and some on every grid. The others are marked `zoo`.
"""

import dataclasses
import functools
import runpy
from pathlib import Path

import pytest
import torch

import autopar.capture
from autopar.compiler import compile
from autopar.ir.grid import GridShape
from autopar.ir.machine import Link
from autopar.ir.machine import load as load_machine
from autopar.ir.plan import ModelSource
from autopar.ir.plan_file import load_plan
from autopar.model_file import load
from autopar.runtime import simulate
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.verification.verify import CASES, verify

MODELS = Path(__file__).parent / "models"
NAMES = tuple(sorted(path.stem.removeprefix("zoo_") for path in MODELS.glob("zoo_*.py") if path.stem != "zoo_data"))
MACHINE = dataclasses.replace(load_machine("cpu"), name="quick", launch_floor=1e-9, intra=Link(1e-9, 1e12))
COMPARED = {"AdamW, float64", "SGD with momentum, float32"}
WITHOUT_RULE = 0.01  # share of the predicted compute

EVERY_TIME = {
    "2": ("diffusion", "t5"),
    "3": ("swin",),
    "2x2": ("mixtral", "segformer"),
    "4x2": ("fno", "lstm"),
}
GRIDS = tuple(EVERY_TIME)
PAIRS = [
    pytest.param(name, grid, marks=() if name in EVERY_TIME[grid] else pytest.mark.zoo)
    for name in NAMES
    for grid in GRIDS
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile a model for a grid; every model is captured once."""
    capture = functools.cache(autopar.capture.capture)
    files = functools.cache(lambda name: load(MODELS / f"zoo_{name}.py"))

    def folder(name, grid):
        file = files(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(autopar.capture, "capture", capture)
            source = ModelSource(str(file.path), file.sha256, file.attribute)
            one = compile(file.model, file.example_inputs, grid=grid, machine=MACHINE, name=name, source=source)
        return one.save(tmp_path_factory.mktemp(name))

    return folder


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_a_family_is_split_and_computes_what_it_computed(compiled, name, grid):
    folder = compiled(name, grid)
    plan = load_plan(folder)
    assert any(choice.mode == "split" for node in plan.nodes for choice in node.choices)
    seconds = {node.name: node.seconds_forward + node.seconds_backward for node in plan.nodes}
    unruled = {node.name: seconds[node.name] for node in plan.nodes if not node.ruled}
    assert sum(unruled.values()) < WITHOUT_RULE * sum(seconds.values()), sorted(unruled)

    found = differences(folder / "program.py", GridShape.parse(grid).size)
    assert {(one.case, one.what) for one in found} == {(case, what) for case in COMPARED for what in WHAT}
    assert [one for one in found if not one.relative <= one.tolerance] == []


WHAT = ("losses", "gradients", "state")


def differences(path, ranks):
    """What `verify` finds on rank 0, all ranks being threads of this process."""
    torch.set_num_threads(1)

    def run():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, 0)
        cases = [case for case in CASES if f"{case.name}, {str(case.dtype).removeprefix('torch.')}" in COMPARED]
        return [one for case in cases for one in verify(opened, case, 3, 0)]

    return simulate(ranks, run, timeout=300.0)[0]
