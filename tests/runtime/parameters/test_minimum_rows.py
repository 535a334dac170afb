"""Cuts never leave a rank without a row of a factor that must be filled, by trying every share."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_programs import PROGRAMS, describe, make

from autopar.errors import ConfigError
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.parameters.minimum_rows import check_minimum_rows, least_share
from autopar.runtime.program.plan_reader import WorkSpec
from autopar.runtime.session.parallel_module import Parallel
from autopar.runtime.training.balance_settings import BalanceSettings
from autopar.runtime.training.scheduler import Scheduler


def live(cuts):
    """The axes of a grid 2x3, cut as given; the same on every rank."""

    def rank():
        axes = Grid("outer=2,inner=3").axes
        for axis, own in zip(axes, cuts, strict=True):
            axis.move(own)
        return axes

    return simulate(6, rank)[0]


FILLED = st.lists(
    st.tuples(st.sampled_from([("outer",), ("inner",), ("outer", "inner")]), st.integers(6, 40)), min_size=1, max_size=3
)
INNER = st.sampled_from([None, (0.0, 0.25, 0.75, 1.0), (0.0, 0.5, 0.75, 1.0)])


@settings(max_examples=30, deadline=None)
@given(FILLED, INNER, st.floats(0.0, 1.0))
def test_a_share_that_is_large_enough_leaves_every_rank_a_row(filled, inner, first):
    axes = live((None, inner))
    share = least_share(axes, 0, filled)
    if share <= min(first, 1 - first):
        axes[0].move((0.0, first, 1.0))
        check_minimum_rows(axes, filled)
    axes[0].move((0.0, 0.4, 1.0))
    share = least_share(axes, 1, filled)
    cuts = (0.0, first / 2, first, 1.0)
    if all(high - low >= share for low, high in itertools.pairwise(cuts)):
        axes[1].move(cuts)
        check_minimum_rows(axes, filled)


def test_balanced_cuts_need_no_more_than_they_have():
    axes = live((None, None))
    assert least_share(axes, 0, [(("outer",), 2)]) == 1 / 2
    assert least_share(axes, 1, [(("inner",), 49)]) == 1 / 49
    assert least_share(axes, 0, [(("outer", "inner"), 6)]) == 1 / 2
    assert least_share(axes, 1, [(("outer",), 2)]) == 0


def test_an_empty_part_is_refused_with_all_offenders():
    axes = live(((0.0, 0.9, 1.0), None))
    check_minimum_rows(axes, [(("outer",), 8)])
    with pytest.raises(ConfigError, match=r"4 rows over outer would be cut into \[4, 0\]"):
        check_minimum_rows(axes, [(("outer",), 8), (("outer",), 4)])
    with pytest.raises(ConfigError, match="20 rows over outer and inner"):
        check_minimum_rows(axes, [(("outer", "inner"), 20)])


class Timed(Parallel):
    """Communication takes no time on the test's clock."""

    communication_seconds = 0.0


def session(filled):
    """A model on two ranks that splits its batch, and besides these factors."""
    model, inputs = make("tied")
    grid = Grid("2")
    work = (WorkSpec(((("axis0",), 10),), 1.0),)
    description = dataclasses.replace(describe(model, inputs(0), grid), filled=filled, work=work)
    return Timed(PROGRAMS["tied"](grid), description, module_values(model)), inputs


def test_a_session_refuses_cuts_and_keeps_the_old_ones():
    def rank():
        parallel, _ = session(((("axis0",), 3),))
        with pytest.raises(ConfigError, match="3 rows over axis0"):
            parallel.rebalance({"axis0": (0.0, 0.9, 1.0)})
        before = parallel.grid.axes[0].cuts
        parallel.rebalance({"axis0": (0.0, 0.6, 1.0)})
        return before, parallel.grid.axes[0].cuts

    assert simulate(2, rank) == [(None, (0.0, 0.6, 1.0))] * 2


@pytest.mark.parametrize("filled", [(), ((("axis0",), 2),)])
def test_the_scheduler_moves_no_further_than_that(filled):
    def rank():
        parallel, inputs = session(filled)
        now, rows = [0.0], []
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        scheduler = Scheduler(parallel, optimizer, BalanceSettings(window=1), lambda: now[0])
        for step in range(10):
            with scheduler.step():
                parallel(**inputs(step)).backward()
                rows.append(parallel.input_shape(parallel.description.inputs[0].name)[0])
                now[0] += rows[-1] * (100.0 if parallel.grid.rank else 1.0)
        return rows, parallel.grid.axes[0].part(2)

    rows, part = simulate(2, rank)[1]
    assert rows[-1] < rows[0]
    assert rows[-1] >= 2 if filled else rows[-1] == 1
    assert part == (1 if filled else 0)
