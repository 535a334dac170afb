"""Micro-batches drawn from a queue: whoever draws what, loss, gradients and state are those of the undivided sequential model.

All ranks of a grid run in this process. Draws are adversarial where a test hands them out: any replica may get any micro-batch, all
of them or none.
"""

import copy
import functools
import itertools
import random
from pathlib import Path

import pytest
import torch
from compiling import compiled_file, verified
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from microbatched import MODELS, assert_as_sequential, compiled, on_ranks, tokens, trained, trained_program

from autopar.errors import ConfigError
from autopar.ir.grid import GridShape
from autopar.runtime.functional.model_random import ProgramRandom
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.pipeline.microbatch_queue import QueuedStep

known = functools.cache(compiled)


def hand_out(parallel, owners):
    """Let each micro-batch of the next steps go to this replica, in the place of the counter."""
    queue, begun = parallel._queue, 0
    mine = []
    for step in owners:
        mine += [begun + number for number, owner in enumerate(step) if owner == queue.axis.index]
        mine.append(begun + len(step) + queue.axis.index)
        begun += len(step) + queue.axis.size
    numbers = iter(mine)
    queue.next = lambda: next(numbers)


def assert_trains_alike(name, grid, owners, batches=None):
    model, given_batches, one = known(name, grid, len(owners[0]))
    batches = given_batches if batches is None else batches
    expected = copy.deepcopy(model)
    losses = trained(expected, batches)

    def run(parallel):
        hand_out(parallel, owners)
        found = trained_program(parallel, batches)
        return found, parallel.full_gradients(), parallel.full_state_dict()

    for outcome in on_ranks(one, model, run):
        assert_as_sequential(outcome, expected, losses)


GRIDS = ("queue:2", "data=queue:2,model=2", "queue:3")
OFTEN = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def draws(replicas, microbatches=4, steps=3):
    owner = st.integers(0, replicas - 1)
    return st.lists(st.lists(owner, min_size=microbatches, max_size=microbatches), min_size=steps, max_size=steps)


@pytest.mark.parametrize("name", ["dropout", "powers"])
def test_any_replica_may_compute_any_micro_batch(name):
    """One replica computes a step alone, others share one."""
    assert_trains_alike(name, GRIDS[1], [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "grid"), list(itertools.product(MODELS, GRIDS)))
def test_any_draws_train_alike(name, grid):
    @OFTEN
    @given(draws(GridShape.parse(grid).replicas))
    def trains(owners):
        assert_trains_alike(name, grid, owners)

    trains()


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["dropout", "images", "powers"])
def test_boundaries_move_while_micro_batches_are_drawn(name):
    """Any legal cuts of the axis inside of replicas, drawn between steps, AdamW's state with them."""
    model, batches, one = known(name, GRIDS[1], 4)
    chance, batches = random.Random(name), batches * 2
    expected = copy.deepcopy(model)
    losses = trained(expected, batches)
    owners = [[chance.randrange(2) for _ in range(4)] for _ in batches]
    cuts = [{"model": [0.0, chance.choice([0.0, 0.25, 0.4, 0.6, 1.0]), 1.0]} for _ in batches]

    def run(parallel):
        hand_out(parallel, owners)
        optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-3)
        found, moves = [], 0
        for batch, at in zip(batches, cuts, strict=True):
            optimizer.zero_grad()
            found.append(parallel(**batch))
            found[-1].backward()
            optimizer.step()
            if not parallel.objections(at, optimizer):
                parallel.rebalance(at, optimizer)
                moves += 1
        return torch.stack(found).detach(), parallel.full_state_dict(), moves

    for found, state, moves in on_ranks(one, model, run):
        assert moves > 2
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)
        for key, value in expected.state_dict().items():
            if key in state:
                torch.testing.assert_close(state[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.zoo
@pytest.mark.parametrize("grid", ["queue:2", "queue:2x2"])
def test_a_model_file_is_verified_whoever_draws(tmp_path, monkeypatch, grid):
    chance = random.Random(grid)
    owners = [chance.randrange(2) for _ in range(1009)]

    def draws(step, _):
        return (m for m in range(step._count) if owners[(step._first + m) % len(owners)] == step.axis.index)

    monkeypatch.setattr(QueuedStep, "draws", draws)
    folder = compiled_file(Path(__file__).parent / "models/small_gpt2.py", grid, tmp_path, "small_gpt2")
    for row in verified(folder / "program.py", grid, steps=3):
        assert row.relative <= row.tolerance, row


def test_who_has_the_turn_draws():
    """With the counter itself; a batch of one row has one micro-batch, which one of the replicas computes."""
    model, batches, one = known("dropout", GRIDS[1], 4)
    batches = [*batches, {k: v[-1:] for k, v in tokens(7).items()}]
    expected = copy.deepcopy(model)
    losses = trained(expected, batches)

    def run(parallel):
        found = trained_program(parallel, batches)
        optimizer = torch.optim.AdamW(parallel.parameters())
        optimizer.step()
        held = parallel.full_optimizer_state_dict(optimizer)
        parallel.load_full_optimizer_state_dict(optimizer, held)
        state = parallel.full_state_dict()
        assert {name: kept["exp_avg"].shape for name, kept in held["state"].items()} == {
            name: state[name].shape for name, _ in expected.named_parameters()
        }
        return found, parallel._queue._begun, parallel.full_gradients()

    for found, begun, gradients in on_ranks(one, model, run):
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients["h.1.proj.weight"], expected.h[1].proj.weight.grad, rtol=1e-10, atol=1e-10)
        assert begun == 3 * (4 + 2) + 1 + 2


def test_the_loss_is_the_same_to_the_bit_whoever_draws():
    model, (batch, *_), one = known("dropout", "queue:2", 4)

    def run(parallel):
        hand_out(parallel, [[0, 0, 0, 0], [1, 0, 1, 1]])
        parallel.eval()
        return [float(parallel(**batch)) for _ in range(2)]

    for first, second in on_ranks(one, model, run):
        assert first == second


def test_outputs_come_from_whoever_computed_them():
    model, (batch, *_), one = compiled("dropout", GRIDS[1], 4, outputs=("logits",))
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = model(**batch)

    def run(parallel):
        hand_out(parallel, [[1, 0, 0, 1]])
        found = parallel.eval()(**batch)
        assert not found.loss.requires_grad
        return found.loss, found.logits, found.part("logits").shape[0]

    for loss, logits, rows in on_ranks(one, model, run):
        torch.testing.assert_close(loss, expected["loss"], rtol=1e-10, atol=0)
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-10, atol=1e-12)
        assert rows in (3, 4, 7)


def test_gradients_add_up_over_several_batches_and_count_once_in_the_norm():
    model, batches, one = known("dropout", "queue:3", 4)
    expected = copy.deepcopy(model)
    for step, batch in enumerate(batches[:2], 1):
        with drawing(0, step), ProgramRandom():
            loss = expected(**batch)["loss"]
        (loss / 2).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)

    def run(parallel):
        hand_out(parallel, [[2, 2, 0, 2], [2, 1, 1, 2]])
        with parallel.no_sync():
            (parallel(**batches[0]) / 2).backward()
        (parallel(**batches[1]) / 2).backward()
        return parallel.clip_grad_norm_(0.1), parallel.full_gradients()

    for found, gradients in on_ranks(one, model, run):
        torch.testing.assert_close(found, norm, rtol=1e-10, atol=0)
        for key, parameter in expected.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-10, atol=1e-10)


def test_parts_of_the_batch_are_refused_and_so_is_a_batch_that_is_one_piece():
    model, (batch, *_), one = known("dropout", "queue:2", 4)

    def run(parallel):
        with pytest.raises(ConfigError, match=r"inputs are given in parts\n.*\n.*pass the whole batch on every rank"):
            parallel.forward_parts(**batch)
        return True

    assert on_ranks(one, model, run) == [True, True]
    with pytest.raises(ConfigError, match=r"1 micro-batch of a batch, and 2 replicas"):
        one.replan(grid="queue:2", microbatches=1)
    with pytest.raises(ConfigError, match=r"data is a queue"):
        one.replan(grid=GRIDS[1], pin=["h.*: m0@data"])
