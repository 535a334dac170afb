"""Deferred initialisation yields the bits of an eager one, one tensor at a time."""

import functools
import itertools
import logging
import weakref
from unittest import mock

import pytest
import torch
from torch import nn

from autopar.runtime import simulate
from autopar.runtime.parameters import op_replay
from autopar.runtime.parameters.deferred_init import initial_values, module_values

SEED = 7


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 90, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def resnet():
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=5)
    )


def volume():
    down = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.ConvTranspose3d(4, 2, 2, stride=2)
    )
    return nn.ModuleDict({"down": down, "out": nn.Conv3d(2, 1, 1, bias=False)})


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.middle = nn.Linear(6, 6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

    return Tied()


def by_hand():
    """What users do to parameters: exchanged data, slices, transposes, values that depend on values, constants."""

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 20)
            self.a.weight.data = torch.randn(20, 5) / 3
            self.a.bias.data[:4].zero_()
            self.b = nn.Parameter(torch.empty(20, 6).normal_().t().contiguous())
            nn.init.orthogonal_(self.b)
            with torch.no_grad():
                self.b[1:3].mul_(2).add_(torch.rand(2, 20))
                self.b += self.a.weight.mean()
            self.rates = [rate.item() for rate in torch.linspace(0, 0.5, 3)]
            self.c = nn.Parameter(torch.full((17,), self.rates[1] + self.a.weight.abs().max().item()))
            nn.init.trunc_normal_(self.c.data[3:], std=0.02)
            self.register_buffer("mask", torch.tril(torch.ones(4, 4, dtype=torch.bool)), persistent=False)
            self.register_buffer("table", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            self.table[0] += 1
            self.d = nn.Parameter(torch.rand(3, dtype=torch.float64), requires_grad=False)

    return ByHand()


def reseeded():
    first = nn.Linear(4, 4)
    torch.manual_seed(3)
    second = nn.Linear(4, 4)
    torch.manual_seed(3)
    own = torch.Generator().manual_seed(5)
    third = nn.Linear(4, 4)
    third.weight.data.normal_(generator=own)
    own.manual_seed(5)
    third.bias.data.normal_(generator=own)
    return nn.Sequential(first, second, third, nn.Linear(4, 3))


def another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    finally:
        torch.set_default_dtype(torch.float32)


def refilled():
    """Room made like a tensor that is gone when the room is first used, as where pretrained values are loaded."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            for name, like in (("a", torch.empty_like), ("b", lambda x: x.new_empty(3, 5)), ("c", torch.zeros_like)):
                seed = torch.arange(15.0).reshape(5, 3).t() / 4
                self.register_buffer(name, like(seed + 1))

        def fill(self):
            for buffer in self.buffers():
                buffer.copy_(torch.rand(3, 5) + torch.arange(5.0))
            return self

    return Model().fill()


MODELS = [gpt2, resnet, volume, tied, by_hand, reseeded, another_default_dtype, refilled]


def eager(build):
    torch.manual_seed(SEED)
    return dict(module_values(build()))


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_replayed_values_are_the_eager_ones_to_the_bit(build, caplog):
    expected = eager(build)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, "autopar"):
        found = {name: value.clone() for name, value in initial_values(build, SEED)}
    assert not caplog.records, "it was built whole"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert torch.equal(torch.get_rng_state(), before)


def test_looking_at_values_draws_nothing_twice(monkeypatch):
    """A constructor that looks at what it has drawn, layer by layer (trunc_normal_ does), is replayed in linear time."""
    drawn = []
    real = op_replay._Replay._with_state
    monkeypatch.setattr(op_replay._Replay, "_with_state", lambda self, *given: drawn.append(1) or real(self, *given))

    def made(layers):
        net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(layers)))
        for layer in net:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            assert layer.weight.abs().max() < 1
        return net

    counts = []
    for layers in (4, 8, 16):
        drawn.clear()
        build = functools.partial(made, layers)
        expected = eager(build)
        assert all(torch.equal(value, expected[name]) for name, value in initial_values(build, SEED))
        counts.append(len(drawn))
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0]), counts


def test_random_numbers_drawn_between_two_tensors_do_not_matter():
    expected = eager(tied)
    for name, value in initial_values(tied, SEED):
        assert torch.equal(value, expected[name])
        torch.rand(5)


def test_at_most_one_parameter_is_alive():
    def build():
        return nn.Sequential(*(nn.Linear(64, 64) for _ in range(12)), *(nn.Embedding(64, 64) for _ in range(4)))

    alive = []
    seen = []
    for name, value in initial_values(build, SEED):
        seen.append(name)
        alive.append(weakref.ref(value.untyped_storage()))
        del value
        assert sum(ref() is not None for ref in alive[:-1]) <= 1
    assert len(seen) == 28


def test_a_model_that_cannot_be_recorded_is_built_whole(caplog):
    outside = torch.zeros(3)

    def build():
        outside.normal_()
        module = nn.Linear(3, 3)
        module.bias.data.copy_(outside)
        return module

    torch.manual_seed(SEED)
    expected = {name: value.clone() for name, value in module_values(build())}
    with caplog.at_level(logging.WARNING, "autopar"):
        found = dict(initial_values(build, SEED))
    assert "built whole" in caplog.text
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_model_that_cannot_be_replayed_is_built_whole(caplog):
    def broken(*given):
        yield from itertools.islice(op_replay.replay(*given), 2)
        raise KeyError(66)

    expected = eager(tied)
    with (
        caplog.at_level(logging.WARNING, "autopar"),
        mock.patch("autopar.runtime.parameters.deferred_init.replay", broken),
    ):
        pairs = [(name, value.clone()) for name, value in initial_values(tied, SEED)]
    assert "built whole" in caplog.text
    assert "KeyError: 66" in caplog.text
    assert len(pairs) == len(expected)
    assert all(torch.equal(value, expected[name]) for name, value in pairs)


def test_ranks_that_are_threads_make_the_same_values():
    expected = eager(gpt2)

    def rank():
        return {name: value.clone() for name, value in initial_values(gpt2, SEED)}

    for found in simulate(3, rank):
        assert all(torch.equal(found[name], value) for name, value in expected.items())
