"""wide_gpt on grid data=2,model=2, compiled by autopar 0.1.0. Edit freely: `autopar run` executes this file."""

import torch
import torch.nn.functional as F
from autopar.runtime import Copied, Grid, Program, Replicate, Shard, all_sum, all_to_all, copy, cross_entropy, gather, keep, main, split

GRID = Grid("data=2,model=2")
DATA, MODEL = GRID.axes
INPUTS = {"ids": [Shard(0), Replicate()]}
PARAMETERS = {
    "embed.weight": [Copied(), Shard(1)],
    "position.weight": [Copied(), Shard(1)],
    "blocks.*.ln_1.*": [Copied(), Copied()],
    "blocks.*.attn.qkv.*": [Copied(), Shard(0, blocks=3, unit=4)],
    "blocks.*.attn.out.weight": [Copied(), Shard(1, unit=4)],
    "blocks.*.attn.out.bias": [Copied(), Replicate()],
    "blocks.*.ln_2.*": [Copied(), Copied()],
    "blocks.*.up.*": [Copied(), Shard(0)],
    "blocks.*.down.weight": [Copied(), Shard(1)],
    "blocks.*.down.bias": [Copied(), Replicate()],
    "ln.*": [Copied(), Copied()],
}


def block(p, add):
    # small_models.py:94, split b0 over data, b0 over model, 0.38 ms, 1 KiB 0.037 ms
    ln = gather(F.layer_norm(add, (16,), p.ln_1.weight, p.ln_1.bias), 0, MODEL, DATA.part(4))
    # small_models.py:56, split b0 over data, n over model, 3.7 ms, 1 KiB back 0.011 ms
    q, k, v = F.linear(copy(ln, MODEL), p.attn.qkv.weight, p.attn.qkv.bias).chunk(3, 2)
    transpose = q.unflatten(2, (-1, 4)).transpose(1, 2)
    transpose_2 = k.unflatten(2, (-1, 4)).transpose(1, 2)
    transpose_3 = v.unflatten(2, (-1, 4)).transpose(1, 2)
    # small_models.py:58, split b0 over data, b1 over model, 0.72 ms
    attention = F.scaled_dot_product_attention(transpose, transpose_2, transpose_3, is_causal=True)
    out_bias = keep(p.attn.out.bias, MODEL)
    out = F.linear(attention.transpose(1, 2).flatten(2), p.attn.out.weight, out_bias)  # small_models.py:59, split b0 over data, k over model, 1.2 ms
    add = add + split(all_sum(out, MODEL), 0, MODEL)  # small_models.py:94, split d0 over data, d0 over model, 0.031 ms, 1 KiB + 1 KiB back 0.048 ms
    # small_models.py:95, split b0 over data, b0 over model, 0.38 ms, 1 KiB 0.037 ms
    ln = gather(F.layer_norm(add, (16,), p.ln_2.weight, p.ln_2.bias), 0, MODEL, DATA.part(4))
    # small_models.py:95, split b0 over data, n over model, 2.5 ms, 1 KiB back 0.011 ms
    gelu = F.gelu(F.linear(copy(ln, MODEL), p.up.weight, p.up.bias))
    # small_models.py:95, split b0 over data, k over model, 2.5 ms, 1 KiB + 1 KiB back 0.049 ms
    down = split(all_sum(F.linear(gelu, p.down.weight, keep(p.down.bias, MODEL)), MODEL), 0, MODEL)
    return add + down  # small_models.py:95, split d0 over data, d0 over model, 0.031 ms


def forward(p, ids):
    # small_models.py:111, split b0 over data, d over model, 0.085 ms
    add = F.embedding(ids, p.embed.weight) + F.embedding(torch.arange(8), p.position.weight)
    add = all_to_all(add, MODEL, Shard(2), Shard(0), 16)                                  # 512 B + 512 B back 0.028 ms
    for layer in p.blocks:
        add = block(layer, add)
    ln = F.layer_norm(add, (16,), p.ln.weight, p.ln.bias)  # small_models.py:114, split b0 over data, b0 over model, 0.38 ms
    # small_models.py:114, split b0 over data, k over model, 2.5 ms, 512 B + 512 B back 0.028 ms
    slice_ = F.linear(all_to_all(ln, MODEL, Shard(0), Shard(2), DATA.part(4)), p.embed.weight)[:, :7]
    reshape = split(all_sum(slice_, MODEL).flatten(0, 1), 0, MODEL, unit=7)               # 1.75 KiB + 1.75 KiB back 0.083 ms
    reshape_2 = split(ids[:, 1:].flatten(), 0, MODEL, unit=7)
    # small_models.py:115, split n over data, n over model, 0.22 ms, 24 B 0.0042 ms
    return all_sum(all_sum(cross_entropy(reshape, reshape_2, over=(DATA, MODEL)), DATA), MODEL)


PROGRAM = Program(GRID, forward, INPUTS, PARAMETERS)
if __name__ == "__main__":
    main(PROGRAM, __file__)
