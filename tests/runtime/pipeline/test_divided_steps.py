"""Steps of divided programs under hand-made schedules, against the sequential model in float64: all ranks in this process."""

import copy

import divided_programs as divided
import pytest
import torch

from autopar.ir.grid import GridShape
from autopar.runtime import simulate

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
