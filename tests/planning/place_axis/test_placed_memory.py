"""The memory of every position, as the plan says it, is what the limit is held against."""

import pytest
from compiling import compiled

from autopar.errors import InfeasiblePlan

ASKED = {"grid": "stage:2", "microbatches": 4, "schedule": "auto", "optimizer": "sgd"}


def under(limit):
    """The most bytes of a position of the plan under a limit, None where there is none."""
    try:
        plan = compiled("gpt", memory=limit, **ASKED).plan
    except InfeasiblePlan:
        return None
    assert plan.predicted.bytes == max(plan.placement.bytes)
    assert all(size > 0 for size in plan.placement.bytes)
    return max(plan.placement.bytes)


@pytest.mark.zoo
def test_no_position_holds_more_than_the_limit():
    free = under("1GiB")
    for share in (1.0, 0.9):
        most = under(int(free * share))
        assert most is not None, share
        assert most <= free * share
    assert under(1000) is None
