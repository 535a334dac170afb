"""wide_gpt on grid data=2,model=2, compiled by autopar 0.1.0. Edit freely: `autopar run` executes this file."""

import torch
import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Replicate, Shard, all_sum, copy, cross_entropy, embedding, gather, keep, layer_norm, main, split

GRID = Grid("data=2,model=2")
DATA, MODEL = GRID.axes
INPUTS = {"ids": [Shard(0), Replicate()]}
PARAMETERS = {
    "embed.weight": [Copied(), Shard(1)],
    "position.weight": [Shard(0), Shard(1)],
    "blocks.*.ln_1.*": [Copied(), Shard(0)],
    "blocks.*.attn.qkv.*": [Copied(), Shard(0, blocks=3, unit=4)],
    "blocks.*.attn.out.*": [Copied(), Shard(0)],
    "blocks.*.ln_2.*": [Copied(), Shard(0)],
    "blocks.*.up.*": [Copied(), Shard(0)],
    "blocks.*.down.weight": [Copied(), Shard(1)],
    "blocks.*.down.bias": [Copied(), Replicate()],
    "ln.*": [Copied(), Shard(0)],
}


def block(p, add):
    # small_models.py:94, split b0 over data, m0 over model, 0.38 ms, 1.25 KiB + 128 B back 0.043 ms
    ln = gather(layer_norm(add, 1, p.ln_1.weight, p.ln_1.bias, over=(MODEL,)), 2, MODEL, 16)
    # small_models.py:56, split b0 over data, n over model, 3.7 ms, 1 KiB back 0.011 ms
    q, k, v = F.linear(copy(ln, MODEL), p.attn.qkv.weight, p.attn.qkv.bias).chunk(3, 2)
    transpose = q.unflatten(2, (-1, 4)).transpose(1, 2)
    transpose_2 = k.unflatten(2, (-1, 4)).transpose(1, 2)
    transpose_3 = v.unflatten(2, (-1, 4)).transpose(1, 2)
    # small_models.py:58, split b0 over data, b1 over model, 0.72 ms
    attention_2 = F.scaled_dot_product_attention(transpose, transpose_2, transpose_3, is_causal=True)
    reshape = copy(gather(attention_2, 1, MODEL, 4).transpose(1, 2).flatten(2), MODEL)    # 1 KiB + 1 KiB back 0.048 ms
    add = add + F.linear(reshape, p.attn.out.weight, p.attn.out.bias)  # small_models.py:59, split b0 over data, n over model, 1.3 ms
    # small_models.py:95, split b0 over data, m0 over model, 0.38 ms, 1.25 KiB + 128 B back 0.043 ms
    ln = gather(layer_norm(add, 1, p.ln_2.weight, p.ln_2.bias, over=(MODEL,)), 2, MODEL, 16)
    # small_models.py:95, split b0 over data, n over model, 2.5 ms, 1 KiB back 0.011 ms
    gelu = F.gelu(F.linear(copy(ln, MODEL), p.up.weight, p.up.bias))
    # small_models.py:95, split b0 over data, k over model, 2.5 ms, 1 KiB + 1 KiB back 0.049 ms
    down = split(all_sum(F.linear(gelu, p.down.weight, keep(p.down.bias, MODEL)), MODEL), 2, MODEL)
    return add + down  # small_models.py:95, split d0 over data, d2 over model, 0.031 ms


def forward(p, ids):
    # small_models.py:111, split v over data, d over model, 0.011 ms, 256 B + 256 B back 0.0071 ms
    position = copy(all_sum(embedding(torch.arange(8), p.position.weight, over=(DATA, 8)), DATA), DATA)
    add = F.embedding(ids, p.embed.weight) + position  # small_models.py:111, split b0 over data, d over model, 0.069 ms
    for layer in p.blocks:
        add = block(layer, add)
    # small_models.py:114, split b0 over data, m0 over model, 0.38 ms, 260 B + 128 B back 0.0059 ms
    ln = layer_norm(add, 1, p.ln.weight, p.ln.bias, over=(MODEL,))
    # small_models.py:114, split b0 over data, k over model, 2.5 ms, 1.75 KiB + 1.75 KiB back 0.083 ms
    reshape = split(all_sum(F.linear(ln, p.embed.weight)[:, :7], MODEL).flatten(0, 1), 1, MODEL)
    # small_models.py:115, split n over data, v over model, 0.22 ms, 64 B 0.0026 ms
    loss = cross_entropy(reshape, ids[:, 1:].flatten(), over=(DATA,), classes=(MODEL, 32))
    return all_sum(all_sum(loss, DATA), MODEL)                                            # 8 B 0.0021 ms


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
