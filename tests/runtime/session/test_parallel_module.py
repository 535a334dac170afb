"""A program on simulated ranks trains as the sequential model does."""

import copy
import gc
import math
import pickle

import pytest
import torch
from small_programs import PROGRAMS, describe, make
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from trained import assert_trains_the_same

import autopar
from autopar.errors import CheckpointError, CommError, ProgramMismatch
from autopar.runtime import Grid, simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.session.parallel_module import Parallel

CASES = [
    ("mlp", "1x1"),
    ("mlp", "2x1"),
    ("mlp", "1x3"),
    ("mlp", "3x2"),
    ("mlp", "6x1"),
    ("mlp", "1x8"),
    ("tied", "3"),
    ("tied", "2x2"),
]
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def parallel(kind, grid, bucket_bytes=300, **options):
    model, inputs = make(kind)
    live = Grid(grid)
    return Parallel(
        PROGRAMS[kind](live),
        describe(model, inputs(0), live),
        module_values(model),
        bucket_bytes=bucket_bytes,
        **options,
    ), inputs


def size(grid):
    return math.prod(map(int, grid.split("x")))


def close(found, expected, relative=1e-10):
    for name, value in expected.items():
        value = value.detach()
        scale = max(float(value.abs().max()), 1e-300) if value.numel() else 1.0
        assert found[name].shape == value.shape
        assert (
            float((found[name].detach().double() - value.double()).abs().max() if value.numel() else 0)
            <= relative * scale
        ), name


def train(model, inputs, optimizer, clip=None, steps=3):
    """Losses, last gradients, state and norms of sequential training."""
    optimizer, losses, norms = OPTIMIZERS[optimizer](model.parameters()), [], []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(**inputs(step))
        loss.backward()
        if clip is not None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), *clip)))
        optimizer.step()
        losses.append(loss.detach())
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return torch.stack(losses), gradients, model.state_dict(), torch.tensor(norms)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("kind", "grid"), CASES)
def test_training_equals_the_sequential_model(kind, grid, optimizer):
    model, inputs = make(kind)
    losses, gradients, state, _ = train(model, inputs, optimizer)

    def rank():
        p, inputs = parallel(kind, grid)
        stock, found = OPTIMIZERS[optimizer](p.parameters()), []
        for step in range(3):
            stock.zero_grad()
            loss = p(**inputs(step))
            loss.backward()
            stock.step()
            found.append(loss.detach())
        return torch.stack(found), p.full_gradients(), p.full_state_dict()

    for found in simulate(size(grid), rank):
        close({"loss": found[0]}, {"loss": losses})
        assert found[1].keys() == gradients.keys()
        close(found[1], gradients)
        assert found[2].keys() == state.keys()
        close(found[2], state)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize(("kind", "grid"), [("mlp", "2x3"), ("tied", "2")])
def test_clipping_equals_torch(kind, grid, norm_type):
    clip = (0.05, norm_type)
    model, inputs = make(kind)
    _, gradients, state, norms = train(model, inputs, "sgd", clip)

    def rank():
        p, inputs = parallel(kind, grid)
        optimizer, found = OPTIMIZERS["sgd"](p.parameters()), []
        for step in range(3):
            optimizer.zero_grad()
            p(**inputs(step)).backward()
            found.append(float(p.clip_grad_norm_(*clip)))
            optimizer.step()
        return torch.tensor(found), p.full_gradients(), p.full_state_dict()

    for found in simulate(size(grid), rank):
        close({"norm": found[0]}, {"norm": norms})
        close(found[1], gradients)
        close(found[2], state)


def test_clipping_of_gradients_that_are_not_finite():
    def rank():
        p, inputs = parallel("mlp", "1x2")
        p(**inputs(0)).backward()
        if p.grid.rank == 1:
            p.get_parameter("layers.0.weight").grad[0, 0] = math.nan
        with pytest.raises(RuntimeError, match="nan"):
            p.clip_grad_norm_(1.0, error_if_nonfinite=True)
        assert math.isnan(p.clip_grad_norm_(1.0))

    simulate(2, rank)


def test_names_shards_and_kinds():
    model, _ = make("mlp")

    def rank():
        p, _ = parallel("mlp", "2x3")
        names = {name: tuple(one.shape) for name, one in p.named_parameters()}
        rows = p.grid.axes[1].part(7)
        first = {"layers.0.weight": (rows, 3), "layers.0.bias": (rows,), "layers.2.weight": (4, rows)}
        assert names == first | {"layers.2.bias": (4,), "scale": (4,)}
        assert {name: one.requires_grad for name, one in p.named_parameters()} == {
            name: one.requires_grad for name, one in model.named_parameters()
        }
        assert dict(p.named_buffers()).keys() == {"steps", "mean"}
        assert p.input_layouts["x"] == tuple(p.program.inputs["x"])
        assert "2x3" in repr(p) or "data" in repr(p)
        p.load_state_dict(p.state_dict())

    simulate(6, rank)


def test_full_state_goes_back_and_to_rank_0_alone():
    model, _ = make("tied")
    expected = model.state_dict()

    def rank():
        p, _ = parallel("tied", "2x2")
        state = p.full_state_dict()
        assert state["head.weight"] is state["embed.weight"]
        with torch.no_grad():
            for one in p.parameters():
                one.zero_()
        p.load_full_state_dict(expected)
        close(p.full_state_dict(), expected, 0)
        alone = p.full_state_dict(rank0_only=True)
        assert alone.keys() == (expected.keys() if p.grid.rank == 0 else set())
        with pytest.raises(CheckpointError, match=r"blocks\.1\.weight is missing"):
            p.load_full_state_dict({name: one for name, one in expected.items() if name != "blocks.1.weight"})
        with pytest.raises(CheckpointError, match=r"head\.weight has shape \(2, 2\)"):
            p.load_full_state_dict({**expected, "head.weight": torch.zeros(2, 2)})
        with pytest.raises(CheckpointError, match="other is not a parameter"):
            p.load_full_state_dict({**expected, "other": torch.zeros(2, 2)})

    simulate(4, rank)


def test_another_dtype():
    model, inputs = make("mlp", torch.float32)

    def rank():
        model, inputs = make("mlp", torch.float32)
        grid = Grid("2x2")
        p = Parallel(PROGRAMS["mlp"](grid), describe(model, inputs(0), grid), module_values(model), dtype=torch.float64)
        assert p(**inputs(0)).dtype == torch.float64
        assert p.get_buffer("steps").dtype == torch.int64
        return p(**inputs(0))

    expected = model.double()(**{name: one.double() for name, one in inputs(0).items()})
    for loss in simulate(4, rank):
        close({"loss": loss}, {"loss": expected})


def test_gradients_accumulate_over_backward_passes():
    model, inputs = make("tied")
    for step in range(3):
        model(**inputs(step)).backward()
    expected = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}

    def rank():
        p, inputs = parallel("tied", "2x2")
        for step in range(3):
            p(**inputs(step)).backward()
        first = p.full_gradients()
        p.zero_grad(set_to_none=False)
        for step in range(3):
            p(**inputs(step)).backward()
        return first, p.full_gradients()

    for found in simulate(4, rank):
        close(found[0], expected)
        close(found[1], expected)


def test_a_step_without_gradients():
    model, inputs = make("mlp")
    expected = model(**inputs(0))

    def rank():
        p, inputs = parallel("mlp", "2x2")
        with torch.no_grad():
            loss = p(*inputs(0).values())
        assert not loss.requires_grad
        assert not p.full_gradients()
        return loss

    for loss in simulate(4, rank):
        close({"loss": loss}, {"loss": expected})


def test_parts_of_inputs_read_by_each_rank():
    model, inputs = make("mlp")
    expected = model(**inputs(0))

    def rank():
        p, inputs = parallel("mlp", "2x2")
        data = p.grid.axes[0]
        low, high = data.bounds(5)[data.index : data.index + 2]
        assert p.input_shape("x") == (high - low, 3)
        return p.forward_parts(**{name: one[low:high] for name, one in inputs(0).items()})

    for loss in simulate(4, rank):
        close({"loss": loss}, {"loss": expected})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"x": torch.zeros(4, 3, dtype=torch.float64)}, r"x has shape \(4, 3\), compiled for \(5, 3\)"),
        ({"x": torch.zeros(5, 3, dtype=torch.int64)}, "x has dtype int64, compiled for float64"),
        ({"x": [1.0]}, "x is list, not a tensor"),
        ({"z": torch.zeros(1)}, "'z' is no input"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_on_every_rank(wrong, text):
    def rank():
        p, inputs = parallel("mlp", "2x1")
        with pytest.raises(ProgramMismatch, match=text):
            p(**inputs(0) | wrong)
        with pytest.raises(CommError, match=rf"(?s)failed on rank 1 of 2.*{text}"):
            p(**inputs(0) | (wrong if p.grid.rank == 1 else {}))
        with pytest.raises(ProgramMismatch, match=r"x is given twice"):
            p(inputs(0)["x"], **inputs(0))
        with pytest.raises(ProgramMismatch, match=r"(?s)y is missing.*compile again"):
            p(inputs(0)["x"])
        p(**inputs(0)).backward()

    simulate(2, rank)


def test_a_source_that_fails_on_one_rank_fails_on_all():
    def rank():
        model, inputs = make("mlp")
        grid = Grid("2x1")

        def source():
            yield from list(module_values(model))[: 3 if grid.rank else None]
            if grid.rank:
                raise OSError("the disk is gone")

        with pytest.raises(CommError, match=r"failed on rank 1 of 2(?s:.*)the disk is gone"):
            Parallel(PROGRAMS["mlp"](grid), describe(model, inputs(0), grid), source())

    simulate(2, rank)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moving_boundaries_at_every_step_changes_nothing(optimizer):
    model, inputs = make("mlp")
    losses, _, state, _ = train(model, inputs, optimizer, steps=4)
    cuts = [
        {"axis0": (0, 0.2, 1)},
        {"axis1": (0, 0.1, 0.9, 1)},
        {"axis0": (0, 1, 1), "axis1": (0, 0, 0.9, 1)},
        {"axis1": None},
    ]

    def rank():
        p, inputs = parallel("mlp", "2x3")
        stock, found = OPTIMIZERS[optimizer](p.parameters()), []
        for step in range(4):
            stock.zero_grad()
            loss = p(**inputs(step))
            loss.backward()
            p.rebalance(cuts[step], stock) if step % 2 else None
            stock.step()
            found.append(loss.detach())
            p.rebalance(cuts[step], stock)
        return torch.stack(found), p.full_state_dict()

    for found in simulate(6, rank):
        close({"loss": found[0]}, {"loss": losses})
        close(found[1], state)


class Two(nn.Module):
    """Two modules, each of which a block after them has under another name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.block = nn.ModuleDict({"a": self.a, "b": self.b})

    def forward(self, x):
        return self.block["b"](self.block["a"](x).relu()).square().mean()


def test_modules_that_are_shared_in_turn_keep_their_first_names():
    model, x = Two(), torch.randn(4, 4)
    one = autopar.compile(model, (x,), grid="2")
    assert_trains_the_same(one, model, {"x": x}, steps=2)


@pytest.mark.parametrize(("kind", "grid"), [("mlp", "2x1"), ("tied", "2x2")])
def test_averaged_weights_and_copies_are_those_of_the_sequential_model_and_boundaries_stay_meanwhile(kind, grid):
    """An exponential average over steps, which evaluates; a copy that trains alone; pickles are refused with the way."""

    def averaged(model, inputs):
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            model(**inputs(step)).backward()
            optimizer.step()
            average.update_parameters(model)
        other = copy.deepcopy(model)
        other(**inputs(0)).backward()
        torch.optim.SGD(other.parameters(), lr=1.0).step()
        return average, other, average(**inputs(3)).item()

    def rank():
        model, inputs = parallel(kind, grid)
        average, other, loss = averaged(model, inputs)
        with pytest.raises(CheckpointError, match="full_state_dict"):
            pickle.dumps(model)
        axis = model.grid.axes[0].name
        assert model.objections({axis: [0.5, 0.5]})
        del average.module, other
        gc.collect()
        return loss

    model, inputs = make(kind)
    average, other, expected = averaged(model, inputs)
    states = [{name: one.detach() for name, one in module.state_dict().items()} for module in (average.module, other)]

    def wholes():
        model, inputs = parallel(kind, grid)
        average, other, loss = averaged(model, inputs)
        return [average.module.full_state_dict(), other.full_state_dict(), model.full_state_dict()], loss

    for found, loss in simulate(size(grid), wholes):
        assert abs(loss - expected) <= 1e-10 * max(abs(expected), 1)
        close(found[0], states[0])
        close(found[1], states[1])
        close(found[2], model.state_dict())
    simulate(size(grid), rank)
