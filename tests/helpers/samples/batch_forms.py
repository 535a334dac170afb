"""Ways in which models use the number of their rows: for each the loss of a layer's result `h` and the input `x`."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

B = 8  # rows of the example; also features, and the length of a table


def _without_gradient(x):
    with torch.no_grad():
        return x.sum(0) / x.shape[0]


def _in_bfloat16(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x.sum(0) / x.shape[0]


def _again(h):
    return checkpoint(lambda h: h.square().sum() / h.shape[0], h, use_reentrant=False)


def _written_copy(h):
    part = h[:, 1:].contiguous()  # of one row h itself, into which is written
    part += 1.0
    return part.square().mean() + h.square().mean()


ANY = {  # what is computed alike for every number of rows
    "arange": lambda h, x: F.cross_entropy(h @ h.T, torch.arange(h.shape[0])),
    "eye": lambda h, x: ((h @ h.T) - torch.eye(h.shape[0])).square().mean(),
    "flat": lambda h, x: (h.reshape(-1) * x.reshape(-1)).sum(),
    "numel": lambda h, x: h.square().sum() / h.numel() + h.abs().sum() / h.shape[0] ** 2,
    "length": lambda h, x: h.square().sum() / len(h) + h.abs().sum() / len(x),
    "without": lambda h, x: (h * _without_gradient(x)).sum() + (h * _in_bfloat16(x)).sum() + _again(h),
    "flip": lambda h, x: (h * h.flip(0)).sum() + (h * x.roll(1, 0)).sum(),
    "repeat": lambda h, x: (h.repeat(2, 1) * x.repeat_interleave(2, 0)).sum() + h.expand(3, -1, -1).sum(),
    "distances": lambda h, x: torch.cdist(h, x).square().sum() / h.size(0),
    "cumulated": lambda h, x: h.cumsum(0).square().mean() + h.cumsum(1).square().mean(),
    "padded": lambda h, x: F.pad(h, (0, 0, 0, h.shape[0])).square().mean(),
    "unfolded": lambda h, x: h.unfold(1, 3, 2).square().mean(),
    "sorted": lambda h, x: (h.sort(0)[0] * x).sum() + h.max(0)[0].sum() + h.logsumexp(0).sum(),
    "square": lambda h, x: (h + torch.ones(B)).mean() + (h * torch.ones(B, B).sum(0)).mean(),
    "features": lambda h, x: h.mean(1).sum() / h.shape[0] + h.sum() / h.shape[1] + (h.T @ h).mean(),
    "split": lambda h, x: sum(one.square().mean() for one in h.chunk(2, 1)),
    "cat": lambda h, x: torch.cat([h, x]).square().mean() + torch.stack([h, x]).sum(),
    "normed": lambda h, x: (F.layer_norm(h, (B,)) * x).sum() + F.normalize(h, dim=0).sum(),
    "zeros": lambda h, x: (h - torch.zeros(h.shape[0], 1)).square().mean() + (h * h.new_ones(len(h.T))).mean(),
    "in_order": lambda h, x: (
        h[:, 1:].contiguous().square().mean() + (h[:, None].transpose(0, 1).contiguous() * x).sum()
    ),
    "first": lambda h, x: h[0].square().mean() + h[:, 0].mean() + (h[:, None] - x[None]).abs().mean(),
}
LIMITED = {  # alike for some numbers of rows, and which
    "if": (lambda h, x: h.square().mean() if h.shape[0] > 6 else h.abs().mean(), "7 rows or more"),
    "if_not": (lambda h, x: h.square().mean() if h.shape[0] != 5 else h.abs().mean(), "1 row or more, not 5"),
    "at_most": (lambda h, x: h.square().mean() if h.shape[0] <= 13 else h.abs().mean(), "1 to 13 rows"),
    "even": (
        lambda h, x: h.square().mean() if h.shape[0] % 2 == 0 else h.abs().mean(),
        "1 row or more, a multiple of 2",
    ),
    "one": (lambda h, x: h.square().mean() if h.shape[0] == 1 else h.abs().mean(), "2 rows or more"),
    "written": (lambda h, x: _written_copy(h), "2 rows or more"),
    "squeezed": (lambda h, x: h.squeeze().mean(0).square().sum(), "2 rows or more"),
    "last": (lambda h, x: h[-3:].square().mean(), "3 rows or more"),
    "guard": (lambda h, x: h.square().mean() if 4 * h.shape[0] ** 2 < 900 else h.abs().mean(), "1 to 14 rows"),
}
OWN = {  # something else for every number of rows
    "half": lambda h, x: h[: h.shape[0] // 2].square().mean(),
    "every_second": lambda h, x: h[::2].square().mean(),
    "at_the_end": lambda h, x: h[h.shape[0] - 1].square().mean(),
    "least": lambda h, x: h[: min(h.shape[0], 9)].square().mean(),
    "most": lambda h, x: h.square().sum() / max(h.shape[0], 7),
    "odd": lambda h, x: h.square().sum() * (h.shape[0] % 2 + 1),
    "loop": lambda h, x: sum(h[i].square().mean() for i in range(h.shape[0])),
    "rows": lambda h, x: torch.stack(list(h)).square().mean(),
    "largest": lambda h, x: h.sum(1).topk(h.shape[0] // 2)[0].mean(),
    "pairs": lambda h, x: h.view(h.shape[0] // 2, 2, -1).square().sum(0).mean(),
    "chunks": lambda h, x: h.chunk(2)[0].square().mean(),
    "parts": lambda h, x: h.split(h.shape[0] // 2)[0].square().mean(),
    "rolled": lambda h, x: (h * h.roll(h.shape[0] // 2, 0)).sum(),
    "full": lambda h, x: (torch.full((h.shape[0],), 1 / h.shape[0]) @ h).square().sum(),
    "root": lambda h, x: h.square().sum() / math.sqrt(h.shape[0]),
    "log": lambda h, x: h.square().sum() / math.log(h.shape[0] + 1),
    "share": lambda h, x: h[: int(0.5 * h.shape[0])].square().sum(),
    "rounded": lambda h, x: h.square().sum() * round(h.shape[0] / 3),
    "others": lambda h, x: (h @ h.T).square().sum() / (h.shape[0] * (h.shape[0] - 1)),
    "between": lambda h, x: h.diff(dim=0).square().sum(),
    "windows": lambda h, x: h.unfold(0, 3, 2).square().sum(),
    "literal": lambda h, x: (h * torch.tensor([i + 0.5 for i in range(h.shape[0])])[:, None]).sum(),
    "table": lambda h, x: (h + torch.ones(B, 1)).square().mean(),
    "places": lambda h, x: (h * torch.linspace(0, 1, h.shape[0])[:, None]).sum(),
    "steps": lambda h, x: (h * torch.arange(h.shape[0] + 1)[1:, None]).sum(),
    "triangle": lambda h, x: (h @ h.T).tril(h.shape[0] // 2).sum(),
}
COINCIDENT = {  # what B rows happen to fit; y has 2 B rows, of which the batch is no part
    "all": lambda h, x, y: h[:B].square().mean(),
    "half": lambda h, x, y: h[: B // 2].square().mean() + h[B // 2 : B].mean(),
    "square": lambda h, x, y: (h + h.T).square().mean(),
    "column": lambda h, x, y: (h * torch.arange(1.0, B + 1)[:, None]).mean(),
    "row": lambda h, x, y: (h * torch.arange(1.0, B + 1)).mean() + (h @ x.new_ones(B, 1)).sum() / B,
    "view_of_rows": lambda h, x, y: (
        h.reshape(-1, B).square().sum(0).mean() + h.view(-1, 2, B // 2).sum(1).prod(1).mean()
    ),
    "if": lambda h, x, y: h.sum() if h.shape[0] == h.shape[1] else h.mean(),
    "twice": lambda h, x, y: (torch.cat([h, h]) * y).mean(),
    "folded": lambda h, x, y: (h * y.view(2, -1, B).sum(0)).mean(),
    "rows_of_y": lambda h, x, y: h.square().sum() / y.shape[0],
    "beside_y": lambda h, x, y: h.square().mean() * y.square().mean() + (h @ y.T).square().mean(),
    "behind_y": lambda h, x, y: torch.cat([y, h]).square().mean() + torch.cat([h, x[:B]]).sum(),
}


class Form(nn.Module):
    """A layer, and one of these ways; several of them, each with a layer of its own, added up."""

    def __init__(self, *losses):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(B, B) for _ in losses)
        self.losses = losses

    def forward(self, x, y=None):
        given = (x,) if y is None else (x, y)
        found = [loss(layer(x), *given) for layer, loss in zip(self.layers, self.losses, strict=True)]
        return sum(found[1:], found[0])
