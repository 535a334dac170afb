import pytest

from autopar.errors import PlanError
from autopar.ir.pipeline.schedule import parse_schedule
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge
from autopar.partitioner.schedules.rows import decode, encode
from autopar.partitioner.schedules.simulate import makespan, simulate

TWO = PipelineProblem(
    positions=2,
    microbatches=2,
    position=(0, 1),
    forward=(1.0, 2.0),
    backward=(3.0, 4.0),
    weight=(1.0, 2.0),
    edges=(SegmentEdge(0, 1, forward=0.5, backward=0.25),),
    kept=(10.0, 20.0),
    held=(4.0, 8.0),
    update=(0.0, 5.0),
)


def test_by_hand():
    lists = parse_schedule("0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 B1.0 F1.1 B1.1")
    timeline = simulate(TWO, lists)
    assert timeline.end == ((1, 2, 10.75, 16.75), (3.5, 7.5, 9.5, 13.5))
    assert timeline.start[0] == (0, 1, 7.75, 13.75)
    assert timeline.makespan == makespan(TWO, lists) == 18.5
    assert timeline.idle == (18.5 - 8, 18.5 - 12 - 5)
    assert timeline.peak == (20, 20)
    assert decode(TWO, encode(TWO, lists)) == lists


def test_deferred_weight_gradients_by_hand():
    lists = parse_schedule("0: F0.0 F0.1 B0.0 B0.1\n1: F1.0 B1.0 F1.1 B1.1 W1.0 W1.1")
    timeline = simulate(TWO, lists)
    assert timeline.end[1] == (3.5, 5.5, 7.5, 9.5, 11.5, 13.5)
    assert timeline.end[0] == (1, 2, 8.75, 12.75)
    assert timeline.peak[1] == 28


def test_a_channel_carries_one_message_at_a_time_in_order():
    slow = PipelineProblem(
        2, 2, (0, 1, 1), (1.0,) * 3, (0.0,) * 3, (0.0,) * 3,
        (SegmentEdge(0, 1, forward=10.0), SegmentEdge(0, 2, gradient=False)), (0.0,) * 3, (0.0,) * 3,
    )  # fmt: skip
    lists = parse_schedule("0: F0.0 F0.1 B0.0 B0.1\n1: F2.0 F1.0 F2.1 F1.1 B1.0 B1.1 B2.0 B2.1")
    assert simulate(slow, lists).end[1][:4] == (12, 13, 22, 23)


def test_a_deadlock_is_refused():
    lists = parse_schedule("0: B0.0 F0.0 F0.1 B0.1\n1: F1.0 B1.0 F1.1 B1.1")
    assert makespan(TWO, lists) == float("inf")
    with pytest.raises(PlanError, match="cannot be carried out"):
        simulate(TWO, lists)
