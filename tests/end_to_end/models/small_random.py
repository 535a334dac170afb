"""A decoder with dropout everywhere, drop path and grouped attention, as people write them; extents do not divide by the grids'."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, groups):
        super().__init__()
        self.heads, self.groups = heads, groups
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width * groups // heads)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.2), nn.Linear(2 * width, width))

    def forward(self, x):
        b, t, c = x.shape
        h = self.norm(x)
        q = self.q(h).view(b, t, self.heads, -1).transpose(1, 2)
        k, v = (one.view(b, t, self.groups, -1).transpose(1, 2) for one in self.kv(h).chunk(2, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1, enable_gqa=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, c)), 0.1)
        kept = torch.floor(torch.rand(b, 1, 1) + 0.7)
        return x + self.mlp(x) / 0.7 * kept


class Decoder(nn.Module):
    def __init__(self, vocabulary=15, width=12, heads=6, groups=3, tokens=7):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Embedding(tokens, width)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, heads, groups) for _ in range(2))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids, labels):
        x = self.drop(self.embed(ids) + self.position(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits = self.head(x).flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten(), ignore_index=0, label_smoothing=0.1)


model = Decoder


def example_inputs():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(15, (5, 7), generator=generator)
    return {"ids": ids, "labels": ids.roll(-1, 1)}
