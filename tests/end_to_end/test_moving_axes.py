"""Programs of drawn choices train as the model does while all axes are cut elsewhere, between steps and amid them.

The choices split letters that no planner would split in models so small: heads in groups, experts, channels, rows of tables. The
cuts are drawn too, some with ranks that have nothing. Parameters, buffers and AdamW's state are compared in float64.
"""

import copy
import random
from contextlib import nullcontext

import compiling
import pytest
import torch
import torch.nn.functional as F
from compiling import compiled, drawn, made, session_maker
from test_moved_rows import Chosen, Looked
from torch import nn

from autopar.errors import ProgramMismatch
from autopar.ir.grid import GridShape
from autopar.runtime import simulate
from autopar.runtime.parameters.moving.legal_cuts import cuts_of, illegal

STEPS = 3


class Grouped(nn.Module):
    """Four heads of queries, of which two share keys and values; a frozen scale and a counting buffer; tied at both ends."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.q, self.kv, self.out = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8, bias=False)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8), requires_grad=False)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, ids):
        x = self.embed(ids)
        q = self.q(x).view(*ids.shape, 4, 6).transpose(1, 2)
        k, v = self.kv(x).view(*ids.shape, 2, 2, 6).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).flatten(2)) * self.scale
        with torch.no_grad():
            self.seen.mul_(0.5).add_(x.mean((0, 1)))
        return F.cross_entropy(F.linear(x, self.embed.weight).flatten(0, 1), ids.flatten())


class Routed(nn.Module):
    """Experts, of which one gets no token."""

    def __init__(self):
        super().__init__()
        self.chosen = Chosen()
        with torch.no_grad():
            self.chosen.gate.bias.copy_(torch.tensor([9.0, 0.0, 0.0, -9.0]))

    def forward(self, x):
        return self.chosen(x)


compiling.EVERY |= {
    "grouped": (Grouped, lambda: {"ids": torch.randint(9, (5, 6))}),
    "routed": (Routed, lambda: {"x": torch.randn(6, 8)}),
    "looked_up": (Looked, lambda: {"x": torch.randn(5, 8), "rows": torch.tensor([5, 0, 3, 3, 1])}),
}
NAMES = (
    "grouped",
    "routed",
    "looked_up",
    "mlp",
    "conv",
    "convpool",
    "attention",
    "heads",
    "gpt",
    "shared",
    "counted",
    "normed",
)
NAMES = (*NAMES, "norm_twice", "stages", "kinds")
EVERY_TIME = {("grouped", "2x2", 0), ("routed", "2", 1)}
CASES = [
    pytest.param(name, grid, seed, marks=() if (name, grid, seed) in EVERY_TIME else pytest.mark.zoo)
    for name in NAMES
    for grid in ("2", "3", "2x2")
    for seed in range(3)
]


def drawn_cuts(parallel, draw):
    for attempt in range(20):
        cuts = {}
        for axis in parallel.grid.axes:
            inner = sorted(draw.choice([draw.random(), draw.randrange(5) / 4]) for _ in range(axis.size - 1))
            even = (i / axis.size for i in range(1, axis.size))
            mixed = ((1 - attempt / 20) * one + attempt / 20 * other for one, other in zip(inner, even, strict=True))
            cuts[axis.name] = draw.choice([None, *[(0.0, *mixed, 1.0)] * 5])
        if not illegal(parallel.grid.axes, cuts_of(cuts), parallel.filled):
            return cuts
    return {}


def batches_of(inputs, varied, seed):
    """Batches of the shapes of the example inputs, or of other numbers of rows."""
    draw = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        rows = [step + 2] if varied else []
        yield {
            name: torch.randn([*rows, *one.shape[len(rows) :]], generator=draw, dtype=torch.float64)
            if one.is_floating_point()
            else one[torch.randint(len(one), (*rows, *[len(one)] * (1 - len(rows))), generator=draw)]
            for name, one in inputs.items()
        }


def trained(model, batches, between=lambda step, optimizer, unread: None):
    """Steps of two batches, of which the first is read once more for a loss whose backward does not come."""
    optimizer = torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=0.01, eps=1e-3
    )  # gradients of 0
    losses = []

    def loss_of(batch):
        loss = model(**batch)
        return loss if isinstance(loss, torch.Tensor) else loss["loss"]

    for step, batch in enumerate(batches):
        between(3 * step, optimizer, None)
        optimizer.zero_grad()
        with getattr(model, "accumulate", nullcontext)():
            loss = loss_of(batch)
            loss.backward()
        between(3 * step + 1, optimizer, loss_of(batch))
        loss_of(batch).backward()
        between(3 * step + 2, optimizer, None)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), optimizer


def assert_moves_change_nothing(one, name, seed, varied=False):
    model, inputs = made(name)
    model = model.double()
    batches = list(batches_of(inputs, varied, seed))
    session = session_maker(one, copy.deepcopy(model))
    losses, optimizer = trained(model, batches)
    state = {key: optimizer.state[value] for key, value in model.named_parameters() if value in optimizer.state}

    def rank():
        parallel, draw, sent = session(), random.Random(seed), []

        def move(step, optimizer, unread):
            if step % 3 == 0 or draw.random() < 0.5:
                cuts, before = drawn_cuts(parallel, draw), [axis.cuts for axis in parallel.grid.axes]
                assert parallel.objections(cuts, optimizer) == []
                sent.append((cuts, sum(parallel.moved_bytes(cuts, optimizer))))
                parallel.rebalance(cuts, optimizer)
                if unread is not None and before != [axis.cuts for axis in parallel.grid.axes]:
                    with pytest.raises(ProgramMismatch, match="a loss that was taken before 1 of"):
                        unread.backward()

        found, stock = trained(parallel, batches, move)
        return found, parallel.full_state_dict(), parallel.full_optimizer_state_dict(stock)["state"], sent

    for found, whole, kept, sent in simulate(GridShape.parse(one.plan.grid).size, rank):
        close({"loss": found}, {"loss": losses}, sent)
        close(whole, {key: value for key, value in model.state_dict().items() if key in whole}, sent)
        assert kept.keys() == state.keys(), sent
        for key, values in state.items():
            close(kept[key], values, sent)
    return sent


def close(found, expected, note):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(float(value.abs().max()) if value.numel() else 0.0, 1e-6)
        assert float((found[key] - value).abs().max()) <= 1e-10 * scale, (key, note)


@pytest.mark.parametrize(("name", "grid", "seed"), CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows
def test_any_letters_move(name, grid, seed):
    assert_moves_change_nothing(compiled(name, grid, solve=drawn(seed)), name, seed)


@pytest.mark.zoo
@pytest.mark.parametrize("grid", ["2", "2x2"])
@pytest.mark.parametrize("name", ["wide_mlp", "wide_gpt", "conv"])
def test_parts_of_zero_move(name, grid):
    one = compiled(name, grid, plan="zero")
    assert any("shard" in layout for item in one.plan.parameters for layout in item.layouts)
    sent = [assert_moves_change_nothing(one, name, seed) for seed in range(3)]
    assert any(one for moves in sent for _, one in moves)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["mlp", "gpt", "convpool", "grouped"])
def test_batches_of_other_sizes_between_moves(name):
    for grid in ("2", "2x2"):
        for seed in range(3):
            assert_moves_change_nothing(compiled(name, grid, solve=drawn(seed)), name, seed, varied=True)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["mlp", "gpt", "attention"])
def test_programs_of_micro_batches_move(name):
    for grid in ("2", "2x2"):
        for seed in range(2):
            one = compiled(name, grid, solve=drawn(seed), microbatches=2)
            assert_moves_change_nothing(one, name, seed)
