"""How many micro-batches a place axis is given: as many as the shortest predicted step has, of those that are tried."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import InfeasiblePlan
from autopar.planning.microbatch_search import search_for_pipeline
from autopar.progress import silent


def planner(seconds, tried):
    def plan(count, best):
        tried.append(count.microbatches)
        if seconds(count.microbatches) is None:
            raise InfeasiblePlan("too large")
        return SimpleNamespace(seconds=seconds(count.microbatches), count=count)

    return plan


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 400), st.integers(1, 60))
def test_where_the_step_has_one_least_length_it_is_found(rows, positions, launch, fits):
    """A pipeline's step: work and bubble shrink with the micro-batches, launches grow; micro-batches must be small enough."""

    def seconds(count):
        return None if rows / count > fits else 1000 * (count + positions - 1) / count + launch * count / 100

    tried = []
    try:
        best = search_for_pipeline(rows, positions, planner(seconds, tried), silent).count.microbatches
    except InfeasiblePlan:
        assert all(seconds(count) is None for count in {*tried, 1})
        return
    known = [count for count in tried if seconds(count) is not None]
    assert seconds(best) == min(map(seconds, known))
    assert best in {
        1,
        *(min(2 * positions, rows) << i for i in range(9)),
        *(min(2 * positions, rows) >> i for i in range(9)),
    }
    assert best <= rows
    assert len(tried) == len(set(tried))


def test_a_batch_that_cannot_be_divided_is_planned_whole():
    tried = []
    plan = planner(lambda count: 1.0 if count == 1 else None, tried)
    assert search_for_pipeline(8, 2, plan, silent).count.microbatches == 1
    assert tried[-1] == 1


def test_one_row_is_not_divided():
    tried = []
    search_for_pipeline(1, 4, planner(lambda count: 1.0, tried), silent)
    assert tried == [1]
