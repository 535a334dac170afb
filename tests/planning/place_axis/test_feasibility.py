"""What cannot be divided is refused at once, and a memory limit is spoken of as it was given."""

import re

import pytest
from compiling import compiled

from autopar.errors import ConfigError, InfeasiblePlan


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ("stage:64", {}),
        ("stage:2", {"ban": ["*: stage=1"]}),
        ("stage:2", {"pin": ["fc1: stage=0", "relu*: stage=1", "fc2: stage=0"]}),
    ],
)
def test_nothing_is_priced_for_what_no_plan_can_follow(grid, options):
    stages = []
    with pytest.raises(ConfigError):
        compiled("mlp", grid, progress=lambda stage, *_: stages.append(stage), **options)
    assert set(stages) <= {"captured", "capturing"}


def test_a_limit_that_no_position_meets_is_that_of_a_rank():
    with pytest.raises(InfeasiblePlan) as caught:
        compiled("mlp", "stage:2", memory=200)
    said = str(caught.value)
    assert said.startswith("memory limit 200.00 B per rank: mlp on grid stage:2 needs ")
    enough = re.search(r"raise --memory to ([\d.]+ ?[KM]?i?B)", said)[1]
    with pytest.raises(InfeasiblePlan, match="placement"):  # dealt evenly it fits, and no placement deals so
        compiled("mlp", "stage:2", memory=enough)
