"""Random numbers go by place: whatever is split, the parts are those of one tensor; and dropout is right on average."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from autopar.errors import ConfigError
from autopar.runtime import (
    Grid,
    bernoulli,
    drawing,
    drop_path,
    dropout,
    exponential_like,
    feature_dropout,
    rand,
    randn,
    recompute,
    simulate,
)
from autopar.runtime.functional.dropout import kept
from autopar.runtime.grid import counter_rng as module
from autopar.runtime.grid.counter_rng import cut
from autopar.runtime.grid.shard_positions import BatchRows, rows_of, take_rows

SHAPES = ((), (1,), (7,), (3, 5), (4, 6, 2), (2, 3, 4, 5), (0, 3))


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from(SHAPES[1:]), st.sampled_from([1, 4, 16, 2**14]))
def test_parts_are_those_of_the_whole(data, shape, cell):
    dims = range(len(shape))
    first, second = data.draw(st.sampled_from(dims)), data.draw(st.sampled_from(dims))
    blocks = 2 if shape[second] % 2 == 0 else 1
    kind = data.draw(st.sampled_from([rand, randn, kept]))
    low = data.draw(st.floats(0, 1))

    def numbers(local, over):
        return kept(0.6, local, over) if kind is kept else kind(local, over)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELL", cell)
        with drawing(1, 2):
            whole = numbers(shape, {})

        def rank():
            data, model = Grid("data=2,model=2").axes
            data.move((0.0, low, 1.0))
            entries = {first: ((data, shape[first]),)}
            entries[second] = (
                *entries.get(second, ()),
                (model, shape[second], *((blocks, 1) if first != second else ())),
            )
            over = {dim: one if len(one) > 1 else one[0] for dim, one in entries.items()}
            expected = whole
            for dim, place in over.items():
                expected = take_rows(expected, dim, rows_of(place))
            with drawing(1, 2):
                return torch.equal(numbers(expected.shape, over), expected)

        assert all(simulate(4, rank))


def test_calls_steps_and_seeds_differ_and_repeat():
    def some(seed, step):
        with drawing(seed, step):
            return [rand((40,)), rand((40,)), randn((40,))]

    first = some(0, 0)
    assert all(torch.equal(one, other) for one, other in zip(first, some(0, 0), strict=True))
    others = [*first, *some(0, 1), *some(1, 0)]
    assert len({tuple(one.tolist()) for one in others}) == 9


@pytest.mark.parametrize("shape", [(70000,), (30, 50, 77)])
def test_moments(shape):
    with drawing(5, 5):
        u, n, b = rand(shape), randn(shape), bernoulli(torch.empty(shape), 0.3)
        e = exponential_like(torch.empty(shape), 2.5)
    count = u.numel()
    assert abs(float(e.mean()) - 1 / 2.5) < 5 * (1 / 2.5**2 / count) ** 0.5
    assert abs(float(e.var()) - 1 / 2.5**2) < 5 * (8 / 2.5**4 / count) ** 0.5
    assert abs(float(u.mean()) - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(float(n.mean())) < 5 * (1 / count) ** 0.5
    assert abs(float(n.var()) - 1) < 5 * (2 / count) ** 0.5
    assert abs(float(b.mean()) - 0.3) < 5 * (0.21 / count) ** 0.5
    for apart in (1, 77, 16384):  # neighbours, rows and cells know nothing of each other
        both = (b.flatten()[apart:] * b.flatten()[:-apart]).mean()
        assert abs(float(both) - 0.09) < 5 * (0.09 / (count - apart)) ** 0.5


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_cells_are_neither_small_nor_many(shape):
    dim, run = cut(shape)
    inner = torch.Size(shape[dim + 1 :]).numel()
    size = max(module.CELL, torch.Size(shape).numel() // module.CELLS)
    assert run * inner <= size
    assert run == 1 or (run + 1) * inner > size


def test_dropout_keeps_the_mean_and_masks_the_gradient():
    x = torch.ones(200, 300, requires_grad=True)
    with drawing(0, 0):
        y = dropout(x, 0.25)
    y.sum().backward()
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float(y.detach().mean()) - 1) < 0.02
    assert torch.equal(x.grad, y.detach())


def test_dropout_of_nothing_of_all_and_in_evaluation():
    x = torch.ones(5)
    with drawing(0, 0):
        assert dropout(x, 0.0) is x
        assert torch.equal(dropout(x, 1.0), torch.zeros(5))
    with drawing(0, 0, training=False):
        assert dropout(x, 0.5) is x
        assert feature_dropout(x.view(1, 5), 0.5).sum() == 5


def test_feature_dropout_drops_channels():
    with drawing(0, 0):
        y = feature_dropout(torch.ones(6, 10, 3, 2), 0.5)
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
    assert 0 < float((y == 0).float().mean()) < 1


def test_outside_of_a_step_it_is_refused():
    with pytest.raises(ConfigError, match="outside of a training step"):
        dropout(torch.ones(3), 0.5)


def _pair(x, w):
    return dropout(torch.tanh(dropout(x, 0.3) @ w), 0.4)


def test_recomputation_draws_the_same_numbers():
    x, w = torch.randn(8, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)

    def gradients(way):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        with drawing(3, 4):
            loss = (way(_pair, *leaves) * dropout(x, 0.5)).sum()
        return torch.autograd.grad(loss, leaves)

    for found, wanted in zip(gradients(recompute), gradients(lambda f, *a: f(*a)), strict=True):
        assert torch.equal(found, wanted)
    with pytest.raises(ConfigError, match="recompute"):
        gradients(lambda f, *a: checkpoint(f, *a, use_reentrant=False))


def test_torch_s_own_generator_is_put_back_and_alike_inside():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with drawing(0, 0):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with drawing(0, 0):
        assert torch.equal(torch.rand(3), inside)


def test_parts_of_a_step_find_torch_s_own_generator_seeded_apart():
    parts = (
        {},
        {"numbers": 2},
        {"numbers": [2, 5]},
        {"rows": BatchRows(3, 6)},
        {"numbers": 2, "rows": BatchRows(3, 6)},
    )
    seen = []
    for part in parts:
        with drawing(0, 1, **part):
            seen.append(float(torch.rand(())))
    assert seen[1] == seen[2]  # the same call is the first
    assert len(set(seen)) == 4


def test_empty_and_scalar_tensors():
    with drawing(0, 0):
        assert rand((0, 4)).shape == (0, 4)
        assert rand(()).shape == ()
        assert F.relu(randn((3, 0, 2))).numel() == 0


def test_drop_path_drops_whole_samples():
    x = torch.ones(400, 3, 2, requires_grad=True)
    with drawing(0, 0):
        y = drop_path(x, 0.8)
    y.sum().backward()
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.detach().unique().tolist() == pytest.approx([0.0, 1.25])
    assert abs(float(y.detach().mean()) - 1) < 0.15
    assert torch.equal(x.grad, y.detach())
    with drawing(0, 0, training=False):
        assert drop_path(x, 0.8) is x
