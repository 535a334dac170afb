"""Steps of divided programs under hand-made schedules, against the sequential model in float64: all ranks in this process."""

import copy

import divided_programs as divided
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.errors import AutoparError, CommError, ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.schedule import Action, format_schedule
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.session.parallel_module import Parallel

STEPS = 3
SETTINGS = {  # grid, positions of the segments, schedule, micro-batches
    "gpipe": ("stage:2", (0, 0, 1, 1), "gpipe", 3),
    "1f1b": ("stage:3", (0, 1, 2, 2), "1f1b", 3),
    "interleaved": ("stage:2x2", (0, 1, 0, 1), "interleaved", 2),
    "zb": ("stage:2x2", (0, 0, 1, 1), "zb", 3),
    "zb of three": ("stage:3", (2, 0, 0, 1), "zb", 4),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(model, losses, rows=divided.ROWS):
    """Losses, gradients and parameters of three AdamW steps, where `losses` computes a step's."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    said = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss, logits = losses(divided.batch(rows, step), step + 1)
        loss.backward()
        said.append((loss.detach(), logits.detach(), model))
        optimizer.step()
    return said


def reference(rows=divided.ROWS, dropped=0.0):
    model = divided.ladder()
    steps = trained(model, lambda batch, step: divided.sequential(model, batch, dropped, 0, step), rows)
    losses = [loss for loss, *_ in steps]
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return losses, [logits for _, logits, _ in steps], gradients, copy.deepcopy(model).state_dict()


def assert_trains_alike(grid, at, schedule, rows=divided.ROWS, dropped=0.0):
    losses, logits, gradients, state = reference(rows, dropped)
    model = divided.ladder()

    def rank():
        parallel = divided.parallel(grid, at, schedule, model, dropped)

        def step(batch, _):
            outputs = parallel(**batch)
            return outputs.loss, outputs["logits"]

        steps = trained(parallel, step, rows)
        said = [loss for loss, *_ in steps], [logits for _, logits, _ in steps]
        return *said, parallel.full_gradients(), parallel.full_state_dict()

    for found_losses, found_logits, found_gradients, found_state in simulate(GridShape.parse(grid).size, rank):
        for found, expected in ((found_losses, losses), (found_logits, logits), (found_gradients, gradients)):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found_state, dict(state), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_schedule_trains_as_the_sequential_model_does(name):
    grid, at, schedule, microbatches = SETTINGS[name]
    assert_trains_alike(grid, at, divided.named(schedule, at, microbatches))


@pytest.mark.parametrize("rows", [2, 5])
def test_batches_of_other_sizes_have_fewer_micro_batches_or_uneven_ones(rows):
    assert_trains_alike("stage:2x2", (0, 1, 0, 1), divided.named("interleaved", (0, 1, 0, 1), 4), rows)


@pytest.mark.parametrize("schedule", ["1f1b", "zb"])
def test_dropout_draws_what_the_undivided_program_draws(schedule):
    assert_trains_alike("stage:2x2", (0, 1, 1, 1), divided.named(schedule, (0, 1, 1, 1), 2), dropped=0.4)


@st.composite
def drawn_pipelines(draw):
    """Positions of the segments, a schedule that can be carried out, rows and a share that is dropped."""
    positions = draw(st.integers(2, 3))
    at = (*range(positions), *(draw(st.integers(0, positions - 1)) for _ in range(4 - positions)))
    at = tuple(draw(st.permutations(at)))
    microbatches = draw(st.integers(1, 4))
    deferring = draw(st.sets(st.integers(0, 3)))
    edges = divided.problem(at, 1).edges
    needs = {("F", edge.target): [] for edge in edges} | {("F", 0): []}
    needs |= {("B", i): [("F", i)] for i in range(4)} | {("W", i): [("B", i)] for i in deferring}
    for edge in edges:
        needs["F", edge.target].append(("F", edge.source))
        needs["B", edge.source].append(("B", edge.target))
    left = [(kind, i, m) for kind, i in needs for m in range(microbatches)]
    lists = [[] for _ in range(positions)]
    while left:
        ready = [a for a in left if not any((*need, a[2]) in left for need in needs[a[:2]])]
        action = draw(st.sampled_from(ready))
        left.remove(action)
        lists[at[action[1]]].append(Action(*action))
    return at, format_schedule(lists), draw(st.integers(1, 7)), draw(st.sampled_from([0.0, 0.3]))


@settings(max_examples=15)
@given(drawn_pipelines(), st.sampled_from(["", "x2"]))
def test_whatever_stands_where_and_is_done_when(pipeline, axis):
    at, text, rows, dropped = pipeline
    assert_trains_alike(f"stage:{1 + max(at)}{axis}", at, text, rows, dropped)


def test_messages_may_come_before_those_that_are_read_first():
    schedule = """
    0: F0.0 F0.1 F2.1 F2.0 B2.0 B2.1 B0.1 B0.0
    1: F1.0 F1.1 F3.0 F3.1 B3.1 B3.0 B1.0 B1.1
    """
    backwards = """
    0: F0.1 F0.0 F2.1 F2.0 B2.0 B2.1 B0.0 B0.1
    1: F1.0 F1.1 F3.1 F3.0 B3.1 B3.0 B1.0 B1.1
    """
    for text in (schedule, backwards):
        assert_trains_alike("stage:2", (0, 1, 0, 1), text)


@pytest.mark.parametrize(
    ("at", "schedule", "said"),
    [
        ((0, 0, 0, 1), divided.named("gpipe", (0, 0, 1, 1), 1), "F2.0 .*, whose segment is on position 0"),
        ((0, 0, 1, 2), divided.named("gpipe", (0, 0, 1, 1), 1), "head is at 2; the positions are 0 to 1"),
        ((0, 0, 1, 1), "0: F0.0 F1.0 B1.0 B0.0\n1: F2.0 B3.0 B2.0", "F3.0 .* is missing"),
        ((0, 0, 1, 1), "0: F0.0 F1.0 B1.0 B0.0\n1: F2.0 B2.0 F3.0 B3.0", "B2.0 .* waits for the gradient of k"),
        ((0, 1, 0, 1), "0: F2.0 F0.0 B2.0 B0.0\n1: F1.0 F3.0 B3.0 B1.0", "F2.0 .* waits for x"),
    ],
)
def test_an_edited_program_that_cannot_run_is_refused_on_all_ranks(at, schedule, said):
    model = divided.ladder()

    def rank():
        with pytest.raises(AutoparError, match=said):
            divided.parallel("stage:2", at, schedule, model)
        return True

    assert simulate(2, rank) == [True, True]


def test_a_list_of_other_micro_batches_than_the_plan_is_refused():
    def rank():
        made = divided.program("stage:2", (0, 0, 1, 1), divided.named("1f1b", (0, 0, 1, 1), 3))
        Parallel(made, divided.description("stage:2", 2), module_values(divided.ladder()))

    with pytest.raises(ProgramMismatch, match="lists for 3 micro-batches, and a plan for 2"):
        simulate(2, rank)


def test_checked_ranks_compare_messages_and_name_the_edge_and_the_action(monkeypatch):
    monkeypatch.setenv("AUTOPAR_CHECK", "1")
    at, text = (0, 0, 1, 1), divided.named("1f1b", (0, 0, 1, 1), 2)
    assert_trains_alike("stage:2", at, text)
    model = divided.ladder()

    def rank():
        parallel = divided.parallel("stage:2", at, text, model)
        executor = parallel._pipelined[0].executor
        if parallel.grid.rank == 1:
            executor._rows = 3  # it takes edges for others than they are
        parallel(**divided.batch())

    with pytest.raises(CommError, match=r"g of micro-batch 0 for F2.0 \(convolved\)") as error:
        simulate(2, rank)
    assert "rank 0 sends float64 [3, 3, 6]" in str(error.value)
    assert "rank 1 expects float64 [6, 3, 6]" in str(error.value)
