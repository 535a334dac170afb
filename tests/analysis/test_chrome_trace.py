"""Chrome traces: valid JSON, one process per rank, lanes without overlaps, the same bytes for the same events."""

import itertools
import json

import pytest
from compiling import QUICK, compiled
from hypothesis import given
from hypothesis import strategies as st

from autopar.analysis.chrome_trace import chrome, write
from autopar.costmodel import step_schedule
from autopar.costmodel.timeline import Event
from autopar.errors import ConfigError

SECONDS = st.lists(st.floats(0, 10, allow_nan=False), min_size=2, max_size=20).map(sorted)


def overlaps(trace):
    """Pairs of events of one lane that overlap."""
    found = []
    lanes = {}
    for one in trace["traceEvents"]:
        if one["ph"] == "X":
            lanes.setdefault((one["pid"], one["tid"]), []).append(one)
    for events in lanes.values():
        for one, two in itertools.pairwise(events):
            if round(one["ts"] + one["dur"], 3) > two["ts"]:
                found.append((one, two))
    return found


@given(SECONDS, SECONDS)
def test_lanes_that_touch_do_not_overlap(first, second):
    events = [
        Event(f"e{i}", "forward", lane, start, end)
        for lane, times in (("communication", first), ("compute", second))
        for i, (start, end) in enumerate(itertools.pairwise(times))
    ]
    trace = json.loads(json.dumps(chrome([("rank 0", events)])))
    assert not overlaps(trace)
    assert sum(one["ph"] == "X" for one in trace["traceEvents"]) == len(events)


def test_processes_and_lanes_have_names():
    events = [Event("a", "forward", "compute", 0, 1, "h.0"), Event("b", "gradients", "sums", 1, 2)]
    trace = chrome([("rank 0", events), ("predicted", events[:1])])["traceEvents"]
    names = {(one["pid"], one.get("tid")): one["args"]["name"] for one in trace if one["name"].endswith("_name")}
    assert names == {
        (0, None): "rank 0", (0, 0): "compute", (0, 1): "communication", (0, 2): "sums",
        (1, None): "predicted", (1, 0): "compute", (1, 1): "communication",
    }  # fmt: skip
    assert [one["dur"] for one in trace if one["ph"] == "X"] == [1e6, 1e6, 1e6]
    assert trace[-1]["args"]["detail"] == "h.0"


def test_the_predicted_step_of_a_plan(tmp_path):
    plan = compiled("gpt", "2", QUICK).plan
    for name in ("one.json", "two.json"):
        write(tmp_path / name, [("predicted", step_schedule.events(plan))])
    one = (tmp_path / "one.json").read_bytes()
    assert one == (tmp_path / "two.json").read_bytes()
    trace = json.loads(one)
    assert not overlaps(trace)
    assert {node.name for node in plan.nodes if node.seconds_forward} <= {e["name"] for e in trace["traceEvents"]}


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        write(tmp_path / "no" / "trace.json", [])
