"""What a profiled run says of the machine: planted prices and speeds come out again."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.analysis.observed_costs import ObservedCall, fitted

factors = st.floats(0.5, 2.0)


@given(
    prices=st.lists(factors, min_size=1, max_size=4),
    speeds=st.lists(st.sampled_from([0.5, 0.7, 0.85, 1.0]), min_size=2, max_size=4),
    sizes=st.lists(st.floats(1e-4, 1e-1), min_size=4, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_planted_factors_are_found(prices, speeds, sizes):
    calls = [
        ObservedCall(rank, size, size * price / speed, (((f"op{i}", "forward"), 1.0),))
        for rank, speed in enumerate(speeds)
        for i, (price, size) in enumerate(zip(prices, sizes, strict=False))
    ]
    said = fitted(calls, len(speeds))
    assert max(said.speeds) == 1.0
    assert said.speeds == pytest.approx([speed / max(speeds) for speed in speeds], rel=0.04)
    for call in calls:
        ((key, _),) = call.shares
        assert call.predicted * said.operators[key] / said.speeds[call.rank] == pytest.approx(call.measured, rel=0.05)


@given(st.lists(st.floats(0.97, 1.0), min_size=2, max_size=4), factors)
@settings(max_examples=20, deadline=None)
def test_ranks_that_hardly_differ_are_alike(speeds, price):
    calls = [ObservedCall(rank, 1.0, price / speed, ((("op", "backward"), 1.0),)) for rank, speed in enumerate(speeds)]
    said = fitted(calls, len(speeds))
    assert said.speeds == (1.0,) * len(speeds)
    mean = sum(call.measured for call in calls) / len(calls)
    assert said.operators["op", "backward"] == pytest.approx(mean)


def test_what_segments_have_in_common_tells_a_slow_position_from_a_low_price():
    """Position 1 takes twice as long for what position 0 does at the predicted pace."""
    shares = ((("op", "forward"), 1.0),)
    calls = [ObservedCall(rank, 1.0, 1.0 + rank, shares) for rank in (0, 1)]
    assert fitted(calls, 2).speeds[1] == pytest.approx(0.5, rel=0.02)
    apart = [ObservedCall(rank, 1.0, 1.0 + rank, (((f"op{rank}", "forward"), 1.0),)) for rank in (0, 1)]
    said = fitted(apart, 2)
    assert said.speeds[1] == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert said.operators["op1", "forward"] / said.speeds[1] == pytest.approx(2.0, rel=0.01)
