"""The four models, compiled for six grids, compute what the sequential model computes.

All ranks of a grid run in this process. The machine profile makes communication cheap, so that the planner splits what it can
although the models are small; extents do not divide by the grids'. The comparison is that of `autopar verify`: losses, every
gradient, and all parameters and buffers after two steps.
"""

from pathlib import Path

import pytest
from compiling import compiled_file, verified

from autopar.ir.plan_file import load_plan

MODELS = Path(__file__).parent / "models"
GRIDS = ("2", "3", "4", "2x2", "4x2", "2x2x2")
EVERY_TIME = {"mlp": "2x2x2", "gpt2": "", "resnet": "", "unet": "3"}  # of the others `make zoo` tries all
PAIRS = [
    pytest.param(name, grid, marks=() if grid == every_time else pytest.mark.zoo)
    for name, every_time in EVERY_TIME.items()
    for grid in GRIDS
]


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_the_program_computes_what_the_model_computes(tmp_path, name, grid):
    folder = compiled_file(MODELS / f"small_{name}.py", grid, tmp_path / "build", name, any_rows=False)
    assert any(choice.mode == "split" for node in load_plan(folder).nodes for choice in node.choices)
    differences = verified(folder / "program.py", grid)
    assert {(one.case, one.what) for one in differences} == EXPECTED
    assert [one for one in differences if not one.relative <= one.tolerance] == []


EXPECTED = {
    (case, what)
    for case in ("SGD with momentum, float64", "AdamW, float64", "SGD with momentum, float32")
    for what in ("losses", "gradients", "state")
}
