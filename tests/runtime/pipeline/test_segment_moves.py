"""Segments move between positions between steps, and the run goes on as if nothing had happened: against the sequential model."""

from dataclasses import replace

import divided_programs as divided
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_divided_sessions import AT, EXACT, GRID, TEXT, adam, on_ranks, step

from autopar.errors import AutoparError, ConfigError, ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.schedule import parse_schedule
from autopar.partitioner.schedules.named import NAMED
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.session.parallel_module import Parallel

STEPS = 4


def trained(dropped):
    """Losses, state and AdamW's state of the sequential model after some steps, each of two batches."""
    model = divided.ladder()
    optimizer = adam(model)
    losses = []
    for number in range(STEPS):
        optimizer.zero_grad()
        for half in range(2):
            batch = divided.batch(seed=2 * number + half)
            loss = divided.sequential(model, batch, dropped, step=2 * number + half + 1)[0] / 2
            loss.backward()
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(norm)
    named = dict(model.named_parameters())
    kept = {name: optimizer.state[one] for name, one in named.items() if one in optimizer.state}
    return losses, model.state_dict(), kept


@st.composite
def runs(draw):
    grid = draw(st.sampled_from(("stage:2", "stage:3", "stage:2x2")))
    positions = GridShape.parse(grid).positions
    places = st.tuples(*[st.integers(0, positions - 1)] * 4)
    schedules = st.sampled_from(("auto", *NAMED))
    return grid, draw(st.lists(st.tuples(places, schedules, st.booleans()), min_size=STEPS + 1, max_size=STEPS + 1))


def lists_of(schedule, at, microbatches, positions):
    """A named schedule where it is defined there; None leaves it to the session."""
    try:
        return parse_schedule(divided.named(schedule, at, microbatches, positions))
    except (KeyError, ConfigError):
        return None


@settings(max_examples=6, deadline=None, derandomize=True, phases=(Phase.generate,))
@given(runs())
def test_a_run_whose_segments_move_computes_what_the_model_computes(run):
    grid, places = run
    dropped, microbatches, positions = 0.3, 2, GridShape.parse(grid).positions
    expected = trained(dropped)

    def use(parallel):
        optimizer, losses, at = adam(parallel), [], list(places[0][0])

        def move(to, schedule):
            moves = {segment: position for segment, position in enumerate(to) if position != at[segment]}
            parallel.move_segments(moves, optimizer, lists_of(schedule, to, microbatches, positions))
            at[:] = to

        for number, (to, schedule, amid) in enumerate(places[1:]):
            optimizer.zero_grad()
            with parallel.accumulate():
                loss = parallel(**divided.batch(seed=2 * number)).loss / 2
                loss.backward()
            losses.append(loss.detach())
            if amid:  # with gradients, some of them addends that are still to be summed
                move(to, schedule)
            loss = parallel(**divided.batch(seed=2 * number + 1)).loss / 2
            loss.backward()
            losses += [loss.detach(), parallel.clip_grad_norm_(0.5)]
            optimizer.step()
            if not amid:
                move(to, schedule)
        names = [name for name, _ in parallel.named_parameters() if name in expected[1]]
        assert names == [name for name in expected[1] if name in names]
        saved = parallel.full_optimizer_state_dict(optimizer)
        parallel.load_full_optimizer_state_dict(optimizer, saved)
        return losses, parallel.full_state_dict(), saved["state"]

    at = places[0][0]
    text = divided.named("gpipe", at, microbatches, positions)
    ranks = GridShape.parse(grid).size
    model = divided.ladder()
    for losses, state, kept in simulate(ranks, lambda: use(divided.parallel(grid, at, text, model, dropped))):
        torch.testing.assert_close(losses, expected[0], **EXACT)
        torch.testing.assert_close(state, dict(expected[1]), **EXACT)
        torch.testing.assert_close(kept, expected[2], **EXACT)


def test_a_checkpoint_takes_segments_back_to_where_they_stood(tmp_path):
    def use(parallel):
        optimizer = adam(parallel)
        step(parallel, optimizer, parallel(**divided.batch()).loss)
        names = [name for name, _ in parallel.named_parameters()]
        parallel.save(tmp_path, optimizer, step=1)
        after = [step(parallel, optimizer, parallel(**divided.batch(seed=1)).loss)]
        parallel.move_segments({1: 0}, optimizer)
        parallel.save(tmp_path, optimizer, step=2)
        parallel.move_segments({1: 1, 2: 1}, optimizer)
        parallel.load(tmp_path / "step-00000002", optimizer)
        moved = [segment.at for segment in parallel.program.forward.segments]
        parallel.load(tmp_path / "step-00000001", optimizer)
        assert [name for name, _ in parallel.named_parameters()] == names
        after.append(step(parallel, optimizer, parallel(**divided.batch(seed=1)).loss))
        assert torch.equal(*after)
        return moved, [segment.at for segment in parallel.program.forward.segments]

    assert on_ranks(use)[0] == ([0, 0, 0, 1], list(AT))


def test_backward_of_a_loss_that_was_taken_before_segments_moved_names_the_moves():
    def use(parallel):
        optimizer = adam(parallel)
        loss = parallel(**divided.batch(seed=0)).loss
        parallel.move_segments({1: 0}, optimizer)
        parallel.move_segments({0: 1, 2: 1}, optimizer)
        rule = r"2 of 2 moves(?s:.*)1: segments, segment 1 to position 0\n.*2: segments, segment 0 to position 1, segment 2"
        with pytest.raises(ProgramMismatch, match=rule):
            loss.backward()
        return [one.grad is None for one in parallel.parameters()]

    assert all(map(all, on_ranks(use, GRID)))


def after_a_refusal(parallel, optimizer, moves, lists=None):
    """The refusal; parameters are where they were."""
    before = [name for name, _ in parallel.named_parameters()]
    with pytest.raises(AutoparError) as caught:
        parallel.move_segments(moves, optimizer, lists)
    assert [name for name, _ in parallel.named_parameters()] == before
    return str(caught.value)


def test_what_cannot_move_is_refused_before_anything_has_moved():
    def use(parallel):
        optimizer, here = adam(parallel), parallel.grid.place.index
        said = [
            after_a_refusal(parallel, optimizer, {4: 0, 1: 2}),
            after_a_refusal(parallel, optimizer, {1: here}),
            after_a_refusal(parallel, optimizer, {1: 0}, parse_schedule(TEXT)),
            after_a_refusal(parallel, optimizer if here else None, {1: 0}),
        ]
        if "mix" in dict(parallel.named_parameters()):
            parallel.mix.register_hook(lambda gradient: gradient)
        said.append(after_a_refusal(parallel, optimizer, {1: 0}))
        step(parallel, optimizer, parallel(**divided.batch()).loss)
        return said

    wrong, differ, lists, groups, hooks = on_ranks(use)[3]
    assert "segment 4 to position 0" in wrong
    assert "segment 1 to position 2" in wrong
    assert "all ranks move the same" in differ
    assert "F1.0" in lists
    assert "position 0: no optimizer" in groups
    assert "mix has hooks" in hooks


@pytest.mark.parametrize(("memory", "rule"), [(40.0, "come have room"), (6000.0, "room for what one micro-batch")])
def test_a_position_without_room_is_named_before_anything_has_moved(memory, rule):
    def rank():
        model, plan = divided.ladder(), divided.description(GRID, 2)
        plan = replace(plan, placement=divided.costs(2, 2, memory))
        if memory > 1000:
            segments = tuple(replace(one, kept_bytes=2000.0) for one in plan.placement.segments)
            plan = replace(plan, placement=replace(plan.placement, segments=segments))
        made = divided.program(GRID, AT, TEXT)
        parallel = Parallel(made, plan, module_values(model), dtype=torch.float64)
        return after_a_refusal(parallel, adam(parallel), {1: 0})

    for said in simulate(4, rank):
        assert "position 0" in said
        assert rule in said


def of_rows(plan, rows):
    """What a plan for so many rows would say."""
    parts = {
        name: tuple(replace(one, shape=(rows, *one.shape[1:])[: len(one.shape)]) for one in getattr(plan, name))
        for name in ("inputs", "outputs", "edges")
    }
    return replace(plan, rows=rows, **parts)


@pytest.mark.parametrize("late", [False, True])
def test_programs_for_other_numbers_of_rows_move_with_the_first(late):
    expected = divided.sequential(divided.ladder(), divided.batch(4))[0].detach()

    def rank(divided_alike=True):
        model, plan = divided.ladder(), replace(divided.description(GRID, 2), fixed="its rows are counted")
        parallel = Parallel(divided.program(GRID, AT, TEXT), plan, module_values(model), dtype=torch.float64)
        other = replace(of_rows(divided.description(GRID, 1), 4), fixed="its rows are counted")
        if not divided_alike:
            parts = [replace(one, segments=(0,)) if one.name == "conv.bias" else one for one in other.parameters]
            other = replace(other, parameters=tuple(parts))
        if late:
            parallel.move_segments({1: 0, 3: 0}, adam(parallel))
        parallel.add(divided.program(GRID, AT, divided.named("gpipe", AT, 1)), other, ())
        parallel.move_segments({2: 1} if late else {1: 0, 2: 1, 3: 0}, adam(parallel))
        loss = parallel(**divided.batch(4)).loss.detach()
        return loss, parallel.grid.place.index, [name for name, _ in parallel.named_parameters()]

    for loss, position, names in simulate(4, rank):
        torch.testing.assert_close(loss, expected, **EXACT)
        assert (names == ["conv.weight", "conv.bias"]) == (position == 1)
    with pytest.raises(ConfigError, match=r"conv.bias is read by its segments \(0,\), not \(2,\)"):
        simulate(4, lambda: rank(divided_alike=False))
