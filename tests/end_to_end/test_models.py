"""The four models, compiled for six grids, compute what the sequential model computes.

All ranks of a grid run in this process. The machine profile makes communication cheap, so that the planner splits what it can
although the models are small; extents do not divide by the grids'. The comparison is that of `autopar verify`: losses, every
gradient, and all parameters and buffers after three steps.
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
GRIDS = ("2", "3", "4", "2x2", "4x2", "2x2x2")
EVERY_TIME = {"mlp": "2x2x2", "gpt2": "4x2", "resnet": "2x2x2", "unet": "3"}
PAIRS = [
    pytest.param(name, grid, marks=() if grid == every_time else pytest.mark.zoo)
    for name, every_time in EVERY_TIME.items()
    for grid in GRIDS
]
MACHINE = dataclasses.replace(load_machine("cpu"), name="quick", launch_floor=1e-9, intra=Link(1e-9, 1e12))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile a model for a grid; every model is captured once."""
    capture = functools.cache(lambda model, inputs, name, loss: captured(model, inputs, name=name, loss=loss))
    captured = autopar.capture.capture
    files = functools.cache(lambda name: load(MODELS / f"small_{name}.py"))

    def folder(name, grid):
        file = files(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                autopar.capture,
                "capture",
                lambda model, inputs, *, name, loss, outputs: capture(model, inputs, name, loss),
            )
            source = ModelSource(str(file.path), file.sha256, file.attribute)
            one = compile(file.model, file.example_inputs, grid=grid, machine=MACHINE, name=name, source=source)
        return one.save(tmp_path_factory.mktemp(name))

    return folder


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_the_program_computes_what_the_model_computes(compiled, name, grid):
    folder = compiled(name, grid)
    path = folder / "program.py"
    torch.set_num_threads(1)
    plan = load_plan(folder)
    assert any(choice.mode == "split" for node in plan.nodes for choice in node.choices)

    def run():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, 0)
        return [one for case in CASES for one in verify(opened, case, 3, 0)]

    differences = simulate(GridShape.parse(grid).size, run, timeout=300.0)[0]
    assert {(one.case, one.what) for one in differences} == EXPECTED
    assert [one for one in differences if not one.relative <= one.tolerance] == []


EXPECTED = {
    (case, what)
    for case in ("SGD with momentum, float64", "AdamW, float64", "SGD with momentum, float32")
    for what in ("losses", "gradients", "state")
}
