"""Models whose operators look at a pixel's surroundings, or at all of space, compute what the sequential model computes.

As in `test_models`; batches of two on three ranks see to it that space or channels are split.
"""

import dataclasses
import runpy
from pathlib import Path

import pytest
import torch

from autopar.compiler import compile
from autopar.ir.grid import GridShape
from autopar.ir.machine import Link
from autopar.ir.machine import load as load_machine
from autopar.ir.plan import ModelSource
from autopar.model_file import load
from autopar.runtime import simulate
from autopar.runtime.session.compiled_job import open_job
from autopar.runtime.verification.verify import CASES, verify

MODELS = Path(__file__).parent / "models"
MACHINE = dataclasses.replace(load_machine("cpu"), name="quick", launch_floor=1e-9, intra=Link(1e-9, 1e12))


@pytest.mark.parametrize(
    ("name", "grid", "names"),
    [
        ("segments", "3", ("conv", "pad", "group_norm", "max_pool", "batch_norm", "interpolate", "avg_pool")),
        ("spectral", "3", ("all_to_all", "torch.fft.rfft", "torch.conj_physical")),
    ],
)
def test_the_program_computes_what_the_model_computes(tmp_path, name, grid, names):
    file = load(MODELS / f"small_{name}.py")
    source = ModelSource(str(file.path), file.sha256, file.attribute)
    folder = compile(file.model, file.example_inputs, grid=grid, machine=MACHINE, name=name, source=source).save(
        tmp_path / "build"
    )
    path = folder / "program.py"
    text = path.read_text()
    assert [one for one in names if f"{one}(" not in text] == []
    torch.set_num_threads(1)

    def run():
        opened = open_job(runpy.run_path(str(path), run_name="program")["PROGRAM"], path, 0)
        return [one for case in CASES for one in verify(opened, case, 3, 0)]

    differences = simulate(GridShape.parse(grid).size, run, timeout=300.0)[0]
    assert len(differences) == 9
    assert [one for one in differences if not one.relative <= one.tolerance] == []
