"""GPT-2 by hand: the batch split, everything else as in one process."""

import torch
import torch.nn.functional as F

from autopar.runtime import all_sum
from benchmarks.contenders.by_hand import HandwrittenPlan, rows, whole


def norm(x, p):
    return F.layer_norm(x, (x.shape[-1],), p.weight, p.bias, 1e-5)


def dense(x, p):
    return torch.addmm(p.bias, x.flatten(0, 1), p.weight).unflatten(0, x.shape[:2])


def block(x, p, heads):
    split = dense(norm(x, p.ln_1), p.attn.c_attn).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    a = F.scaled_dot_product_attention(*split, is_causal=True).transpose(1, 2).flatten(2)
    x = x + dense(a, p.attn.c_proj)
    return x + dense(F.gelu(dense(norm(x, p.ln_2), p.mlp.c_fc), approximate="tanh"), p.mlp.c_proj)


def forward(p, axis, input_ids, labels):
    t = p.transformer
    heads = 6 if t.wte.weight.shape[1] == 384 else 4
    x = F.embedding(input_ids, t.wte.weight) + t.wpe.weight[: input_ids.shape[1]]
    for layer in t.h:
        x = block(x, layer, heads)
    logits = F.linear(norm(x, t.ln_f), t.wte.weight)[:, :-1].flatten(0, 1)
    target = labels[:, 1:].flatten()
    return all_sum(F.cross_entropy(logits, target, reduction="sum") / (target.numel() * axis.size), axis)


PLAN = HandwrittenPlan(forward, whole, rows(0), summed=True)
