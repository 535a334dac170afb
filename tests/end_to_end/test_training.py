"""Training as people do it: the same script, given the model or the model on a grid, computes the same numbers."""

import contextlib
import copy
import functools
import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from compiling import SLOW, drawn
from torch import nn

import autopar
from autopar.errors import CheckpointError, ConfigError, ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.ir.plan_file import to_json
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel

ROWS = 6


class Model(nn.Module):
    """A tied embedding, a frozen layer, a batch norm, several inputs, and a dict of results."""

    def __init__(self, auxiliary=False):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.image = nn.Linear(5, 8, bias=False)  # before a batch norm, a bias has no gradient but rounding
        self.norm = nn.BatchNorm1d(8)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.auxiliary = auxiliary

    def forward(self, x, ids, labels):
        hidden = F.relu(self.norm(self.image(x))) + self.embed(ids).mean(1)
        logits = self.head(self.frozen(hidden))
        loss = F.cross_entropy(logits, labels)
        if self.training and self.auxiliary:
            loss = loss + hidden.square().mean()
        return {"loss": loss, "logits": logits, "more": (hidden.sum(1), {"rows": x.shape[0]})}


def batch(step, rows=ROWS):
    draw = torch.Generator().manual_seed(step)
    return {
        "x": torch.randn(rows, 5, generator=draw, dtype=torch.float64),
        "ids": torch.randint(12, (rows, 3), generator=draw),
        "labels": torch.randint(12, (rows,), generator=draw),
    }


@functools.cache
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model()


@functools.cache
def captured():
    """Undivided; the examples are in float32 as the parameters are."""
    examples = {name: one.float() if one.is_floating_point() else one for name, one in batch(0).items()}
    return autopar.compile(model(), examples, grid="1", machine=SLOW, outputs=("logits", "more.0"))


@functools.cache
def compiled(grid, seed):
    """The program under a choice that is drawn."""
    with mock.patch("autopar.planning.planner.solve", lambda problem, **_: drawn(seed)(problem)):
        return captured().replan(grid=grid)


def on_ranks(grid, work, seed=0, dtype=torch.float64):
    """What `work` returns for the model on each rank of a grid."""
    one = compiled(grid, seed)
    code = compile(one.source, "program.py", "exec")
    description = parse_description(to_json(one.plan), "plan.json")
    start = copy.deepcopy(model())

    def rank():
        names = {"__name__": "program"}
        exec(code, names)
        return work(Parallel(names["PROGRAM"], description, module_values(start), dtype))

    return simulate(GridShape.parse(grid).size, rank)


def close(found, expected, relative=1e-10):
    assert found.keys() == expected.keys()
    largest = max((float(one.detach().abs().max()) for one in expected.values()), default=0.0)
    for name, one in expected.items():
        allowed = relative * max(float(one.detach().abs().max()), 1e-3 * largest)
        assert float((found[name].detach() - one.detach()).abs().max()) <= allowed, name


def state_of(one):
    state = one.full_state_dict() if isinstance(one, Parallel) else one.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def loss_of(out):
    return out.loss if hasattr(out, "loss") else out["loss"]


def clip(one, limit):
    if isinstance(one, Parallel):
        return one.clip_grad_norm_(limit)
    return nn.utils.clip_grad_norm_(one.parameters(), limit)


def optimizer_of(one):
    """Weight decay for matrices only, chosen by name."""
    named = [(name, tensor) for name, tensor in one.named_parameters() if tensor.requires_grad]
    plain = [tensor for name, tensor in named if name.endswith("bias") or "norm" in name]
    other = [tensor for name, tensor in named if not (name.endswith("bias") or "norm" in name)]
    groups = [{"params": other, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0, "lr": 3e-3}]
    return torch.optim.AdamW(groups, lr=1e-2)


def epoch(one, to_none=False, waits=False):
    """Three steps of three batches each, the last of which is smaller; returns losses, norms, logits and the state."""
    optimizer = optimizer_of(one)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    losses = []
    for step in range(3):
        optimizer.zero_grad(set_to_none=to_none)
        for part in range(3):
            last = part == 2
            later = waits and not last and isinstance(one, Parallel)
            with one.no_sync() if later else contextlib.nullcontext():
                loss = loss_of(one(**batch(10 * step + part, 2 if last else ROWS)))
                (loss / 3).backward()
            losses.append(loss.detach())
        losses.append(clip(one, 0.05).double())
        if isinstance(one, Parallel):
            one.clip_grad_value_(0.02)
        else:
            nn.utils.clip_grad_value_(one.parameters(), 0.02)
        optimizer.step()
        schedule.step()
        before = state_of(one)
        one.eval()
        with torch.inference_mode() if waits else torch.no_grad():
            out = one(**batch(99, 5))
            losses += [loss_of(out), out["logits"].sum(), out["logits"].square().sum()]
        one.train()
        close(state_of(one), before, 0)
    return {str(i): one for i, one in enumerate(losses)}, state_of(one)


@pytest.mark.parametrize(("grid", "seed", "waits"), [("2x2", 0, True), ("2x2", 3, False), ("3", 1, True)])
def test_an_epoch_of_a_real_script_equals_the_sequential_one(grid, seed, waits):
    """Accumulation with and without `no_sync`, groups by name, clipping, a schedule, evaluation between, a short batch."""
    losses, state = epoch(copy.deepcopy(model()).double())
    for found_losses, found_state in on_ranks(grid, lambda one: epoch(one, waits, waits), seed):
        for key, value in losses.items():
            assert abs(found_losses[key] - value) <= 1e-10 * abs(value)
        close(found_state, state)


def test_outputs_are_those_of_the_model_and_whole_on_every_rank():
    expected = copy.deepcopy(model()).double()(**batch(1, 5))

    def work(one):
        out = one(**batch(1, 5))
        assert list(out) == ["loss", "logits", "more.0"]
        assert not out.logits.requires_grad
        assert out["logits"] is out.logits
        assert out.part("logits").numel() <= out.logits.numel()
        with pytest.raises(AttributeError, match=r"did you mean 'logits'.*--return"):
            out.logit  # noqa: B018
        with pytest.raises(KeyError, match="no output 'more'"):
            out["more"]
        return {"loss": out.loss, "logits": out.logits, "more": out["more.0"]}

    wanted = {"loss": expected["loss"], "logits": expected["logits"], "more": expected["more"][0]}
    for found in on_ranks("2x2", work):
        close(found, wanted)


def test_outputs_that_forward_does_not_return_are_refused():
    examples = {name: one.float() if one.is_floating_point() else one for name, one in batch(0).items()}
    with pytest.raises(autopar.errors.CaptureError, match=r"'logit' is none; did you mean 'logits'"):
        autopar.compile(model(), examples, grid="2", outputs=("logit",))


def test_the_state_of_the_optimizer_goes_to_another_grid_and_back_to_the_sequential_model():
    def train(one, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            loss_of(one(**batch(step))).backward()
            optimizer.step()

    sequential = copy.deepcopy(model()).double()
    whole = optimizer_of(sequential)
    train(sequential, whole, range(2))
    half, names = copy.deepcopy(whole.state_dict()), [n for n, p in sequential.named_parameters() if p.requires_grad]
    train(sequential, whole, range(2, 4))

    def first(one):
        optimizer = optimizer_of(one)
        train(one, optimizer, range(2))
        return one.full_state_dict(), one.full_optimizer_state_dict(optimizer)

    state, optimized = on_ranks("2x2", first, 3)[0]
    assert sorted(optimized["state"]) == sorted(names)
    order = [name for group in optimized["param_groups"] for name in group["params"]]
    for i, name in enumerate(order):
        close({"m": optimized["state"][name]["exp_avg"]}, {"m": half["state"][i]["exp_avg"]})

    def second(one):
        optimizer = optimizer_of(one)
        one.load_full_state_dict(state)
        one.load_full_optimizer_state_dict(optimizer, optimized)
        train(one, optimizer, range(2, 4))
        other = torch.optim.SGD(one.parameters())
        with pytest.raises(CheckpointError, match="same parameters"):
            one.load_full_optimizer_state_dict(other, optimized)
        return one.full_state_dict()

    for found in on_ranks("3", second, 1):
        close(found, sequential.state_dict())


def test_an_overflow_on_one_rank_skips_the_step_on_all():
    def work(one):
        scaler, optimizer = one.grad_scaler(init_scale=64.0), torch.optim.SGD(one.parameters(), lr=0.1)
        states = [state_of(one)]
        for step in range(2):
            optimizer.zero_grad()
            scaler.scale(loss_of(one(**batch(step)))).backward()
            if step == 0 and one.grid.rank == 1:
                one.get_parameter("norm.bias").grad.fill_(math.inf)
            scaler.step(optimizer)
            scaler.update()
            states.append(state_of(one))
        return scaler.get_scale(), states

    sequential = copy.deepcopy(model()).double()
    optimizer = torch.optim.SGD(sequential.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        sequential(**batch(step))["loss"].backward()
        if step:
            optimizer.step()
    trained = {name for name, one in model().named_parameters() if one.requires_grad}
    for scale, (first, skipped, last) in on_ranks("2x2", work):
        assert scale == 32.0
        close({name: skipped[name] for name in trained}, {name: first[name] for name in trained}, 0)
        close(last, sequential.state_dict())


def test_a_model_that_evaluates_in_another_way_says_so():
    examples = {name: one.float() if one.is_floating_point() else one for name, one in batch(0).items()}
    one = autopar.compile(Model(auxiliary=True), examples, grid="1")
    assert "square" in one.plan.evaluation
    names = {"__name__": "program"}

    def rank():
        exec(one.source, names)
        parallel = Parallel(names["PROGRAM"], parse_description(to_json(one.plan), ""), module_values(Model()))
        with pytest.raises(ConfigError, match="in training, and"):
            parallel.eval()
        assert parallel.training

    simulate(1, rank)


def test_batches_that_differ_in_rows_are_refused_alike():
    def work(one):
        with pytest.raises(ProgramMismatch, match="rank 1 passes 4 rows"):
            one(**batch(0, 3 + one.grid.rank))
        with pytest.raises(ProgramMismatch, match="x has 4, ids has 4, labels has 3"):
            one(**batch(0, 4) | {"labels": batch(0, 3)["labels"]})
        with pytest.raises(ProgramMismatch, match=r"x has shape \(0, 5\)"):
            one(**batch(0, 0))
        return one.forward_parts(**{name: part(one, name, value) for name, value in batch(1, 5).items()}).loss.item()

    def part(one, name, value):
        return autopar.runtime.parameters.shards.view_part(value, one.input_layouts[name], one.grid.axes)

    expected = copy.deepcopy(model()).double()(**batch(1, 5))["loss"].item()
    assert on_ranks("2x2", work) == [pytest.approx(expected, rel=1e-12)] * 4


@pytest.mark.parametrize("seed", [0, 3])
def test_autocast_gives_the_dtypes_and_about_the_numbers_of_the_sequential_model(seed):
    def step(one):
        examples = {name: value.float() if value.is_floating_point() else value for name, value in batch(0).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = one(**examples)
        loss_of(out).backward()
        gradients = (
            one.full_gradients() if isinstance(one, Parallel) else {n: p.grad for n, p in one.named_parameters()}
        )
        return loss_of(out), out["logits"], {name: grad for name, grad in gradients.items() if grad is not None}

    loss, logits, gradients = step(copy.deepcopy(model()))
    for found, found_logits, found_gradients in on_ranks("2x2", step, seed, torch.float32):
        assert (found.dtype, found_logits.dtype) == (loss.dtype, logits.dtype)
        assert abs(found - loss) <= 2e-2 * abs(loss)
        assert {name: one.dtype for name, one in found_gradients.items()} == {n: g.dtype for n, g in gradients.items()}
        close(found_gradients, gradients, 5e-2)
