"""Models divided over the positions of a place axis compute what the sequential model computes: planned, and as drawn at random.

All ranks of a grid run in this process. The comparison is that of `autopar verify`: losses, every gradient, and all parameters
and buffers after three steps.
"""

from pathlib import Path

import pytest
from compiling import compiled_file, verified

from autopar.ir.plan_file import load_plan

MODELS = Path(__file__).parent / "models"
EVERY_TIME = {"gpt2": "stage:2x2", "unet": "stage:3", "resnet": "stage:2", "mlp": "stage:4"}
PAIRS = [
    pytest.param(name, grid, marks=() if grid == every_time else pytest.mark.zoo)
    for name, every_time in EVERY_TIME.items()
    for grid in ("stage:2", "stage:3", "stage:4", "stage:2x2")
]


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_a_divided_program_computes_what_the_model_computes(tmp_path, name, grid):
    folder = compiled_file(MODELS / f"small_{name}.py", grid, tmp_path / "build", name)
    placement = load_plan(folder).placement
    assert {segment.position for segment in placement.segments} == set(range(placement.positions))
    differences = verified(folder / "program.py", grid)
    assert differences
    assert [one for one in differences if not one.relative <= one.tolerance] == []
