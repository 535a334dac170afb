"""A loss has no backward once boundaries or segments have moved: an error names the moves, on every rank and before any gradient.

Outputs that were taken before a move are those of the step that made them.
"""

import copy

import microbatched
import pytest
import torch
from small_programs import make
from test_parallel_module import close, parallel, size

from autopar.errors import ProgramMismatch
from autopar.runtime import simulate

KEEPS = {"axis1": (0, 2 / 7, 4 / 7, 1)}  # 3, 2 and 2 of 7 rows become 2, 2 and 3: rank 1 keeps its shapes, not its rows


def assert_refused(p, loss, text):
    """The loss has no backward on any rank, and has left no gradient."""
    p.zero_grad(set_to_none=True)
    with pytest.raises(ProgramMismatch, match=text):
        loss.backward()
    assert all(one.grad is None for one in p.parameters())


def test_backward_after_moves_that_keep_shapes_names_them():
    model, inputs = make("mlp")
    expected = model(**inputs(1))
    expected.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    def rank():
        p, inputs = parallel("mlp", "2x3")
        loss = p(**inputs(0))
        p.rebalance({"axis1": None})
        loss.backward(retain_graph=True)  # nothing has moved
        p.rebalance(KEEPS)
        assert_refused(p, loss, r"before 1 of 1 moves(?s:.*)move 1: boundaries, axis1 at \(0.0, 0.28")
        last = p(**inputs(1))
        p.rebalance({"axis0": (0, 1, 1)})
        p.rebalance({"axis0": None, "axis1": None})
        assert_refused(
            p, last, r"before 2 of 3 moves(?s:.*)move 2: bound.*\n.*move 3: boundaries, axis0 balanced, axis1"
        )
        assert_refused(p, loss, r"before 3 of 3 moves")
        p(**inputs(1)).backward()
        return p.full_gradients()

    for found in simulate(size("2x3"), rank):
        close(found, gradients)


@pytest.mark.parametrize("grid", ["2x2", "data=queue:2,model=2"])
def test_outputs_of_a_step_are_read_after_a_move(grid):
    model, batches, one = microbatched.compiled("tokens", grid, 3, outputs=("logits",))
    expected = [copy.deepcopy(model)(**batch)["logits"] for batch in batches[:2]]
    cuts = {"model" if "model" in grid else "axis1": (0, 0.2, 1)}

    def use(p):
        first = p(**batches[0])
        p.rebalance(cuts)
        second = p(**batches[1])
        read = [first.logits, second.logits]
        assert_refused(p, first.loss, r"before 1 of 1 moves")
        return read

    for found in microbatched.on_ranks(one, model, use):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_an_input_that_requires_a_gradient_is_refused():
    def rank():
        p, inputs = parallel("mlp", "2x1")
        batch = inputs(0)
        batch["x"].requires_grad_()
        with pytest.raises(ProgramMismatch, match="x requires a gradient, of which a rank would get its own part"):
            p(**batch)
        with torch.no_grad():
            assert torch.isfinite(p(**batch))

    simulate(2, rank)
