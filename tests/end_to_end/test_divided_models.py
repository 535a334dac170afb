"""Models divided over the positions of a place axis compute what the sequential model computes: as planned, and as drawn at random.

All ranks of a grid run in this process. Planned divisions are compared as `autopar verify` does it: losses, every gradient, and
all parameters and buffers after steps. Models with skip connections, tied weights, branches, group norm and dropout are tried
under every schedule; a batch norm keeps its batch whole.
"""

import itertools
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from compiling import assert_computes_the_same, compiled, compiled_file, verified
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autopar.ir.plan_file import load_plan
from autopar.partitioner.placement.assignment import assign
from autopar.partitioner.schedules.named import NAMED
from autopar.runtime.verification.verify import CASES

MODELS = Path(__file__).parent / "models"
ZOO = Path(__file__).parents[1] / "zoo" / "models"
GRIDS = ("stage:2", "stage:3", "stage:4", "stage:2x2")
EVERY_TIME = {("gpt2", "stage:2x2", "auto"), ("unet3d", "stage:3", "interleaved"), ("resnet", "stage:2", "auto")}
EVERY_TIME |= {("mlp", "stage:4", "1f1b")}
FILES = {name: MODELS / f"small_{name}.py" for name in ("gpt2", "unet", "resnet", "mlp", "inception", "unet3d")}
FILES["t5"] = ZOO / "zoo_t5.py"
CHOICES = [
    pytest.param(name, grid, schedule, marks=() if (name, grid, schedule) in EVERY_TIME else pytest.mark.zoo)
    for name in FILES
    for grid in GRIDS
    for schedule in (*NAMED, "auto")
]
ADAMW = [case for case in CASES if case.name.startswith("AdamW")]


@pytest.mark.parametrize(("name", "grid", "schedule"), CHOICES)
def test_a_divided_program_computes_what_the_model_computes(tmp_path, name, grid, schedule):
    folder = compiled_file(FILES[name], grid, tmp_path / "build", name, schedule=schedule)
    placement = load_plan(folder).placement
    assert {segment.position for segment in placement.segments} == set(range(placement.positions))
    assert placement.microbatches > 1 or name in ("resnet", "unet")  # a batch norm, and a batch of one row
    differences = verified(folder / "program.py", grid, ADAMW, steps=2)
    assert {one.what for one in differences} == {"losses", "gradients", "state"}
    assert [one for one in differences if not one.relative <= one.tolerance] == []


def placed_at_random(draw, positions):
    """An assignment in which calls go anywhere; neighbours on one position are a segment, so that any is legal."""

    def place(problem, **_):
        places = st.lists(st.integers(0, positions - 1), min_size=len(problem.calls), max_size=len(problem.calls))
        at = draw(places.filter(lambda at: len(set(at)) == positions))
        labels = [0]
        for before, here in itertools.pairwise(at):
            labels.append(labels[-1] + (before != here))
        first = [at[labels.index(label)] for label in range(labels[-1] + 1)]
        return SimpleNamespace(assignment=assign(problem, labels, first))

    return place


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])  # a run takes a second
@given(
    st.data(), st.sampled_from([("gpt", 2), ("gpt", 1), ("attention", 3), ("conv", 1), ("mlp", 2)]), st.integers(2, 3)
)
def test_any_division_computes_what_the_model_computes(data, choice, positions):
    name, microbatches = choice
    with mock.patch("autopar.planning.place_axis.segments_each.place", placed_at_random(data.draw, positions)):
        one = compiled(name, f"stage:{positions}", microbatches=microbatches, segments=1)  # one draw
    assert_computes_the_same(one, name)
