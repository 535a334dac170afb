"""A program runs with any number of rows, or says why it cannot."""

import copy

import pytest
import torch
import torch.nn.functional as F
from compiling import EVERY, SLOW, captured, compiled_once, made, run
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import autopar
from autopar.codegen.symbolic_batch import Baked, merged

MODELS = ["mlp", "conv", "gpt", "odd_names"]


def with_rows(inputs, names, rows):
    """Inputs of another batch; floating-point ones are not the same in every round."""
    torch.manual_seed(rows)
    found = dict(inputs)
    for name in names:
        value = torch.cat([inputs[name]] * (rows // len(inputs[name]) + 1))[:rows]
        found[name] = value + torch.randn(value.shape) if value.is_floating_point() else value
    return {name: one.double() if one.is_floating_point() else one for name, one in found.items()}


@pytest.mark.parametrize(("grid", "seed"), [("2x2", 1), ("3", None)])
@pytest.mark.parametrize("name", MODELS)
def test_other_batches_give_loss_and_gradients_of_the_sequential_model(name, grid, seed):
    """A single row, fewer rows than ranks, an uneven split, and more rows than were compiled for."""
    one = compiled_once(name, grid, seed=seed)
    batch = one.plan.batch
    assert not batch.fixed
    for rows in (2, 3, batch.rows + 3) if "norm" in name or name == "conv" else (1, 3, batch.rows + 3):
        model, inputs = made(name)
        start = model.double()
        inputs = with_rows(inputs, batch.inputs, rows)
        model = copy.deepcopy(start)
        loss = model(**inputs)
        loss.backward()
        gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        largest = max(float(value.abs().max()) for value in gradients.values())
        for found_loss, found, _ in run(one, start, inputs):
            assert abs(found_loss - loss) <= 1e-10 * abs(loss)
            assert found.keys() == gradients.keys()
            for key, value in gradients.items():
                assert float((found[key] - value).abs().max()) <= 1e-10 * max(float(value.abs().max()), 1e-3 * largest)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "big_image"])
def test_every_small_model_is_captured_for_any_number_of_rows(name):
    assert not captured(name).batch.fixed, captured(name).batch.fixed


class Baking(nn.Module):
    """A model that uses the number of its rows in a way of its own."""

    def __init__(self, kind):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.kind = kind
        if kind == "parameter":
            self.bias = nn.Parameter(torch.ones(6, 1))
        if kind == "buffer":
            self.register_buffer("mask", torch.eye(6))

    def forward(self, x):
        h = self.fc(x)
        if self.kind == "parameter":
            return (h + self.bias).square().mean()
        if self.kind == "buffer":
            return (self.mask @ h).square().mean()
        if self.kind == "root":
            return h.square().sum() / x.shape[0] ** 0.5
        if self.kind == "more":
            return (h.square().sum(1) * (torch.arange(x.shape[0]) + (x.shape[0] + 1))).sum()
        raise AssertionError(self.kind)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("parameter", "needs the number of rows"),
        ("buffer", "needs the number of rows"),
        ("root", "of n rows"),
        ("more", "n + 1 of n rows"),
    ],
)
def test_a_batch_that_is_part_of_the_model_is_named_and_other_batches_refused(kind, why):
    one = autopar.compile(Baking(kind), (torch.randn(6, 4),), grid="2", machine=SLOW)
    assert why in one.plan.batch.fixed
    assert "p.batch" not in one.source


def test_a_count_that_the_user_wrote_follows_the_batch():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            similar = F.normalize(self.fc(x)) @ F.normalize(self.fc(x)).mT
            return similar.square().sum() / x.shape[0] + self.fc(x).sum() / x.numel() + similar.mean()

    one = autopar.compile(Mean(), (torch.randn(6, 4),), grid="2", machine=SLOW)
    assert not one.plan.batch.fixed
    assert "p.batch" in one.source


@given(st.integers(1, 50), st.integers(1, 40))
def test_merged_products_bind_as_one_number(factor, batch):
    class Call:
        def __init__(self, rows):
            self.batch = rows

    def text(rows):
        n = factor * rows
        return f"(10 ** 6 // {n}, 7 % {n}, -{n}, 3 * {n} ** 2, max({n}, 5), 10 ** 6 / {rows * rows * factor})"

    found = merged(text(8), text(11), 8, 11)
    assert eval(found, {"p": Call(batch)}) == eval(text(batch))


@pytest.mark.parametrize(
    ("one", "two"), [("f(9)", "f(12)"), ("f(8)", "g(11)"), ("f(0.5)", "f(0.4)"), ("f(8)", "f(8, 2)")]
)
def test_texts_that_differ_otherwise_do_not_merge(one, two):
    with pytest.raises(Baked):
        merged(one, two, 8, 11)
