"""Compiled programs with schedules put into them: weight gradients apart, whatever the layouts of their segments are."""

import dataclasses

import pytest
from compiling import assert_computes_the_same, compiled_once

from autopar.ir.pipeline.schedule import format_schedule, parse_schedule
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem


def with_zero_bubble(one):
    """A program whose lists are those of ZB-H1, with W of every segment."""
    head, rest = one.source.split('SCHEDULE = """\n')
    text, tail = rest.split('"""', 1)
    lists = parse_schedule(text)
    count = 1 + max(action.microbatch for actions in lists for action in actions)
    where = {action.segment: position for position, actions in enumerate(lists) for action in actions}
    at = tuple(where[segment] for segment in sorted(where))
    work, none = (1.0,) * len(at), (0.0,) * len(at)
    problem = PipelineProblem(len(lists), count, at, work, work, work, (), none, none)
    schedule = format_schedule(NAMED["zb"](problem))
    assert "W0.0" in schedule
    return dataclasses.replace(one, source=f'{head}SCHEDULE = """\n{schedule}"""{tail}')


@pytest.mark.parametrize(
    ("name", "grid", "seed"), [("gpt", "stage:2x2", None), ("gpt", "stage:2x2", 3), ("convpool", "stage:2x2", None)]
)
def test_weight_gradients_may_be_computed_apart(name, grid, seed):
    one = compiled_once(name, grid, seed=seed, microbatches=2, schedule="1f1b")
    assert_computes_the_same(with_zero_bubble(one), name)
