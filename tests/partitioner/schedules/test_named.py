import random

import pytest
from random_pipelines import equal_pipeline, random_pipeline

from autopar.errors import ConfigError
from autopar.ir.pipeline.schedule import format_schedule
from autopar.partitioner.schedules.named import NAMED, gpipe, interleaved, one_f_one_b, zero_bubble
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge
from autopar.partitioner.schedules.simulate import simulate

SECONDS = [(1.0, 2.0, 1.0), (1.0, 2.0, 0.5), (2.0, 3.0, 1.0), (3.0, 4.0, 0.5)]  # F, B, W with W at most F and B - W


@pytest.mark.parametrize("positions", [2, 3, 4, 8])
@pytest.mark.parametrize("seconds", SECONDS)
def test_bubbles_and_activations_are_those_of_the_literature(positions, seconds):
    forward, backward, weight = seconds
    for count in (positions, 2 * positions, 4 * positions):
        bubble = (positions - 1) * (forward + backward)
        zero = (positions - 1) * (forward + backward - 2 * weight)
        most = positions
        for name, rounds, idle, held in [
            ("gpipe", 1, bubble, count),
            ("1f1b", 1, bubble, most),
            ("interleaved", 2, bubble / 2, min(count, most * (1 + (positions - 1) / (2 * positions)))),
            ("interleaved", 3, bubble / 3, min(count, most * (1 + (positions - 1) / (3 * positions)))),
            ("zb", 1, zero, most),
        ]:
            problem = equal_pipeline(positions, count, rounds, *seconds)
            timeline = simulate(problem, NAMED[name](problem))
            assert timeline.makespan - count * (forward + backward) == pytest.approx(idle, rel=0.01), name
            assert max(timeline.peak) == pytest.approx(held, rel=0.01), name
            assert timeline.idle == pytest.approx((idle,) * positions), name


def test_stage_i_of_1f1b_keeps_p_minus_i():
    for count in (1, 2, 3, 7):
        timeline = simulate(equal_pipeline(4, count), one_f_one_b(equal_pipeline(4, count)))
        assert timeline.peak == tuple(min(count, 4 - i) for i in range(4))


def test_lists_as_text():
    assert format_schedule(one_f_one_b(equal_pipeline(2, 3))) == (
        "0: F0.0 F0.1 B0.0 F0.2 B0.1 B0.2\n1: F1.0 B1.0 F1.1 B1.1 F1.2 B1.2\n"
    )
    assert format_schedule(zero_bubble(equal_pipeline(2, 2))) == (
        "0: F0.0 F0.1 B0.0 W0.0 B0.1 W0.1\n1: F1.0 B1.0 F1.1 B1.1 W1.0 W1.1\n"
    )
    assert format_schedule(interleaved(equal_pipeline(2, 2, 2))) == (
        "0: F0.0 F0.1 F2.0 F2.1 B2.0 B2.1 B0.0 B0.1\n1: F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 B1.0 B1.1\n"
    )


def test_any_number_of_microbatches_can_be_carried_out():
    for positions in range(1, 6):
        for count in range(1, 14):
            for rounds, names in ((1, NAMED), (2, ["gpipe", "interleaved"]), (3, ["gpipe", "interleaved"])):
                problem = equal_pipeline(positions, count, rounds)
                for name in names if positions > 1 else NAMED:
                    lists = NAMED[name](problem)
                    simulate(problem, lists)
                    assert len({a for each in lists for a in each}) == sum(map(len, lists))
                    assert len([a for each in lists for a in each if a.kind != "W"]) == 2 * count * problem.segments


def test_gpipe_is_defined_for_every_pipeline():
    rng = random.Random(0)
    for _ in range(50):
        problem = random_pipeline(rng, rng.randint(1, 6), rng.randint(1, 5))
        assert simulate(problem, gpipe(problem)).makespan > 0


def test_skips_and_several_segments_of_a_stage_are_no_hindrance():
    edges = (SegmentEdge(0, 1), SegmentEdge(1, 2), SegmentEdge(0, 3), SegmentEdge(2, 3))
    problem = PipelineProblem(3, 5, (2, 2, 0, 1), (1,) * 4, (2,) * 4, (1, 0, 1, 1), edges, (1,) * 4, (1,) * 4)
    for name in ("gpipe", "1f1b", "zb"):
        simulate(problem, NAMED[name](problem))
    assert not [a for a in zero_bubble(problem)[2] if a.kind == "W" and a.segment == 1]


@pytest.mark.parametrize(
    ("name", "position", "offender"),
    [("1f1b", (0, 1, 0), "position 0 has 2"), ("zb", (0, 1, 0), "position 0 has 2"), ("interleaved", (0, 1, 1, 0), "3 s"),
     ("interleaved", (0, 1, 2, 0, 2, 1), "stage 4 .segment 4. is on position 2, not 1")],
)  # fmt: skip
def test_where_one_is_not_defined_it_says_why(name, position, offender):
    count = len(position)
    edges = tuple(SegmentEdge(k, k + 1) for k in range(count - 1))
    problem = PipelineProblem(
        3, 2, position, (1,) * count, (1,) * count, (0,) * count, edges, (1,) * count, (1,) * count
    )
    with pytest.raises(ConfigError, match=offender):
        NAMED[name](problem)
