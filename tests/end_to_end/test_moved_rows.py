"""Models whose rows are moved, looked up, scanned, compared and routed: whatever is split, the numbers are the model's.

The choices are drawn, so that letters are split that no planner would split in a model so small.
"""

import compiling
import pytest
import torch
from compiling import assert_computes_the_same, compiled, drawn
from torch import nn

WIDTH, EXPERTS = 8, 4


class Moved(nn.Module):
    """Image rows that are shifted around, a token before them, and one of them read."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        h = torch.tanh(self.first(x)).roll((-2, 1), (1, 2))
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), h.flatten(1, 2)), 1)
        mixed = torch.sin(self.second(tokens)).cumsum(1) + tokens.flip(1)
        spread = mixed.var(1) + mixed.amax(1) + torch.linalg.vector_norm(mixed, dim=1)
        return (mixed[:, 0] * spread).sum() + (mixed[:, 2:-1] * mixed[:, 3:]).mean()


class Looked(nn.Module):
    """Rows of a table by index, added into another, and a triangle between them."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Parameter(torch.randn(6, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, rows):
        picked = self.table[rows]
        scores = (self.out(x) @ picked.T).tril()
        added = torch.zeros_like(self.table).index_add(0, rows, torch.tanh(scores.T @ x))
        mine = (torch.nn.functional.one_hot(rows, 6).unsqueeze(-1) * added).sum(1)
        steps = torch.arange(added.shape[0])
        return (mine * picked).sum() + (added.sum(1) * steps).sum() + added.gather(0, rows[:1, None]).sum()


class Chosen(nn.Module):
    """A mixture of experts, as a batch of products with gathered weights."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * 6, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 6))

    def forward(self, x):
        weights, ids = self.gate(x).softmax(-1).topk(2, -1)
        ids = ids.reshape(-1)
        gate, value = (self.up[ids] @ x.repeat_interleave(2, 0).unsqueeze(-1)).squeeze(-1).chunk(2, -1)
        y = (self.down[ids] @ (torch.nn.functional.silu(gate) * value).unsqueeze(-1)).squeeze(-1)
        return (y * weights.reshape(-1, 1)).view(-1, 2, WIDTH).sum(1).square().mean()


compiling.EVERY |= {
    "moved": (Moved, lambda: {"x": torch.randn(3, 4, 2, WIDTH)}),
    "looked": (Looked, lambda: {"x": torch.randn(5, WIDTH), "rows": torch.tensor([5, 0, 3, 3, 1])}),
    "chosen": (Chosen, lambda: {"x": torch.randn(6, WIDTH)}),
}
CUTS = {"2": {"axis0": (0.0, 0.3, 1.0)}, "3": {"axis0": (0.0, 0.5, 0.5, 1.0)}, "2x2": {}}


@pytest.mark.parametrize("name", ["moved", "looked", "chosen"])
@pytest.mark.parametrize("grid", ["2", "3", "2x2"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch on parts without rows
def test_any_choice_computes_the_same(name, grid):
    for seed in range(2):
        one = compiled(name, grid, solve=drawn(seed))
        assert_computes_the_same(one, name, CUTS[grid] if seed else None)


def test_experts_can_be_pinned():
    captured = compiling.captured("chosen").graph
    (node,) = [one.name for one in captured.nodes if one.target == "autopar.experts"]
    one = compiled("chosen", "2", pin=[f"{node}: e@axis0"])
    assert "experts(" in one.source
    assert "over=(AXIS0, 4))" in one.source
    assert_computes_the_same(one, "chosen", CUTS["2"])
