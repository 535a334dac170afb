"""The zoo: model families as users have them, small, on grids that do not divide their extents.

Every program must compute what its model computes: losses, every gradient, and all parameters and buffers after two
steps, in float64 under AdamW and in float32 under SGD. And next to none of its predicted compute may run on every rank
merely because an operator has no rule. All ranks run in this process; the machine profile makes communication cheap, so
that the planner splits what it can although the models are small.

Models that drop out do so: what they draw is compared as well. The pairs of `EVERY_TIME` run with all tests: a model of
every kind, and some on every grid. The others are marked `zoo`.
"""

from pathlib import Path

import pytest
from compiling import compiled_file, verified

from autopar.ir.plan_file import load_plan
from autopar.runtime.verification.verify import CASES

MODELS = Path(__file__).parent / "models"
NAMES = tuple(sorted(path.stem.removeprefix("zoo_") for path in MODELS.glob("zoo_*.py") if path.stem != "zoo_data"))
COMPARED = {"AdamW, float64", "SGD with momentum, float32"}
WHAT = ("losses", "gradients", "state")
WITHOUT_RULE = 0.01  # share of the predicted compute

EVERY_TIME = {
    "2": (),
    "3": (),
    "2x2": ("lstm",),
    "4x2": (),
}
GRIDS = tuple(EVERY_TIME)
PAIRS = [
    pytest.param(name, grid, marks=() if name in EVERY_TIME[grid] else pytest.mark.zoo)
    for name in NAMES
    for grid in GRIDS
]


@pytest.mark.parametrize(("name", "grid"), PAIRS)
def test_a_family_is_split_and_computes_what_it_computed(tmp_path, name, grid):
    folder = compiled_file(MODELS / f"zoo_{name}.py", grid, tmp_path / "build", name)
    plan = load_plan(folder)
    assert any(choice.mode == "split" for node in plan.nodes for choice in node.choices)
    seconds = {node.name: node.seconds_forward + node.seconds_backward for node in plan.nodes}
    unruled = {node.name: seconds[node.name] for node in plan.nodes if not node.ruled}
    assert sum(unruled.values()) < WITHOUT_RULE * sum(seconds.values()), sorted(unruled)

    cases = [case for case in CASES if f"{case.name}, {str(case.dtype).removeprefix('torch.')}" in COMPARED]
    found = verified(folder / "program.py", grid, cases)
    assert {(one.case, one.what) for one in found} == {(case, what) for case in COMPARED for what in WHAT}
    assert [one for one in found if not one.relative <= one.tolerance] == []
