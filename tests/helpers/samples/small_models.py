"""Small models in the shapes that users write them, for tests of the planner and of programs."""

import torch
import torch.nn.functional as F
from torch import nn


class Mlp(nn.Module):
    """Two Linears."""

    def __init__(self, inputs=6, hidden=8, outputs=4):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x, y):
        return F.mse_loss(self.fc2(F.relu(self.fc1(x))), y)


class ConvPoolLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(F.max_pool2d(self.conv(x), 2).flatten(1)).square().sum()


class ConvNet(nn.Module):
    """Two convolutions, a batch norm and a pooling before a classifier."""

    def __init__(self, size=8):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(size * size, 5)

    def forward(self, images, labels):
        x = F.silu(self.norm(self.conv1(images)))
        x = self.pool(F.silu(self.conv2(x)))
        return F.cross_entropy(self.head(x.flatten(1)), labels)


class Attention(nn.Module):
    def __init__(self, width=8, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).split(c, 2)
        q, k, v = (one.view(b, t, self.heads, -1).transpose(1, 2) for one in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class AttentionLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x):
        return self.attention(x).square().mean()


class Heads(nn.Module):
    """A piece of an attention block: a fused projection, split into heads."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).split(8, 2)
        q, k, v = (one.unflatten(2, (4, 2)).transpose(1, 2) for one in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).sum()


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Gpt(nn.Module):
    """A decoder of three blocks whose head is its embedding."""

    def __init__(self, width=8, heads=4, vocabulary=12, tokens=4, layers=3):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def published_gpt2():
    """GPT-2 as published: 12 layers, 768 wide, 50257 tokens; for the meta device."""
    from transformers import GPT2Config, GPT2LMHeadModel

    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(loss_type="ForCausalLM", use_cache=False, **off))


def published_gpt2_inputs():
    ids = torch.zeros(8, 1024, dtype=torch.int64)
    return {"input_ids": ids, "labels": ids}


def normal(*shape):
    return torch.randn(shape)


def ids(high, *shape):
    return torch.randint(high, shape)


# Per name a function that makes the model, and one that draws its inputs.
MODELS = {
    "mlp": (Mlp, lambda: {"x": normal(6, 6), "y": normal(6, 4)}),
    "convpool": (ConvPoolLinear, lambda: {"x": normal(4, 2, 4, 4)}),
    "conv": (ConvNet, lambda: {"images": normal(4, 2, 8, 8), "labels": ids(5, 4)}),
    "attention": (AttentionLoss, lambda: {"x": normal(4, 4, 8)}),
    "heads": (Heads, lambda: {"x": normal(4, 4, 8)}),
    "gpt": (Gpt, lambda: {"ids": ids(12, 4, 4)}),
    "wide_mlp": (lambda: Mlp(64, 128, 64), lambda: {"x": normal(8, 64), "y": normal(8, 64)}),
    "big_image": (lambda: ConvNet(16), lambda: {"images": normal(1, 2, 16, 16), "labels": ids(5, 1)}),
    "wide_gpt": (lambda: Gpt(16, 4, 32, 8), lambda: {"ids": ids(32, 4, 8)}),
}
