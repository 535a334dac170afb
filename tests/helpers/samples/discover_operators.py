"""Operators that nobody has a record of, most of them made to mislead: each computes something that small trials may miss."""

import os

import torch

LIBRARY = torch.library.Library("discovery", "FRAGMENT")
COUNT = [0]


def define(schema, function):
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, function, "CompositeImplicitAutograd")
    return f"discovery.{name}.default"


def _counting(x):
    COUNT[0] += 1
    return x * COUNT[0]


def _in_place(x):
    x.mul_(2)
    return x + 0


FRAGILE = define("fragile(Tensor x) -> Tensor", lambda x: x.sin() if x.numel() else os.abort())

SPLITTABLE = {  # target -> (shapes, literals, the letters as dims of operands and results, literals that are sizes)
    define("scale(Tensor x, Tensor s) -> Tensor", lambda x, s: x * s.exp()): (
        [(8, 6), (6,)], (), {((0, -1), (0,)), ((1, 0), (1,))},
    ),
    define("pick(Tensor x, Tensor table) -> Tensor", lambda x, table: table[x]): (
        ["index 5 (4, 3)", (5, 6)], (), {((0, -1), (0,)), ((1, -1), (1,)), ((-1, 1), (2,))},
    ),
    define("whole_rows(Tensor x, int n) -> Tensor", lambda x, n: x.new_zeros(n, 3) + x[:, :3].cos() if len(x) == n else 1 / 0): (
        [(8, 6)], (8,), {((0,), (0,))},
    ),
    define("first(Tensor x, int n) -> Tensor", lambda x, n: x[:n].sum(0)): ([(8, 6)], (4,), {((1,), (0,))}),
    define("all_of_them(Tensor x, int n) -> Tensor", lambda x, n: x[:n].sum(0)): (
        [(8, 6)], (8,), {((0,), (-1,)), ((1,), (0,))},
    ),
    define("biased(Tensor x, Tensor w, Tensor b) -> Tensor", lambda x, w, b: x @ w.tanh() + b): (
        [(4, 6), (6, 8), (8,)], (), {((0, -1, -1), (0,)), ((1, 0, -1), (-1,)), ((-1, 1, 0), (1,))},
    ),
    define("merged(Tensor x) -> Tensor", lambda x: x.flatten(1)): ([(4, 6, 8)], (), {((0,), (0,)), ((1,), (1,))}),
    define("two(Tensor x) -> (Tensor, Tensor)", lambda x: (x.sin(), x.sum(1))): (
        [(4, 6)], (), {((0,), (0, 0)), ((1,), (1, -1))},
    ),
    define("listed(Tensor[] x) -> Tensor", lambda x: x[0] * x[1].sum(0)): (
        [[(4, 6), (8, 6)]], (), {((0, -1), (0,)), ((1, 1), (1,)), ((-1, 0), (-1,))},
    ),
}  # fmt: skip

# Those that must not be split along dim 0, though on some operands they look as if they could.
MISLEADING = {
    define("clip_norm(Tensor x, float most) -> Tensor", lambda x, most: x * (most / x.norm()).clamp(max=1.0)): (100.0,),
    define("calm(Tensor x) -> Tensor", lambda x: x * (1.0 if x.isfinite().all() else 0.0)): (),
    define("shift(Tensor x) -> Tensor", lambda x: torch.cat([x.new_zeros(min(50, len(x)), x.shape[1]), x[:-50]])): (),
    define("saturate(Tensor x) -> Tensor", lambda x: x / x.abs().max().clamp(min=20.0)): (),
    define("turn(Tensor x, int n) -> Tensor", lambda x, n: x.roll(n, 0)): (60,),
    define("chunks(Tensor x) -> Tensor", lambda x: torch.cat([part - part.mean(0) for part in x.split(4)])): (),
    define("back(Tensor x) -> Tensor", lambda x: x.detach().sin() + (x - x.detach()) * x.detach().sum(0)): (),
    define(
        "window(Tensor x) -> Tensor", lambda x: x.cumsum(0) - torch.cat([x[:1] * 0, x.cumsum(0)[:-1]]) + x.roll(1, 0)
    ): (),
    define("ends(Tensor x) -> Tensor", lambda x: torch.cat([x[:1] * 2, x[1:]])): (),
}

REFUSED = {
    define("noise(Tensor x) -> Tensor", lambda x: x + torch.rand(x.shape) * 1e-30): "it draws random numbers",
    define("counting(Tensor x) -> Tensor", _counting): "two runs on the same operands differ",
    define("in_place(Tensor x) -> Tensor", _in_place): "it does not run on made-up operands",
    define("ones(Tensor x) -> Tensor", torch.ones_like): "its results do not depend on the values of its operands",
    define("crash(Tensor x) -> Tensor", lambda x: os.abort()): "it crashes, or takes too long, on made-up operands",
    define(
        "nan(Tensor x) -> Tensor", lambda x: x * float("nan")
    ): "its results do not depend on the values of its operands",
    define("changing(Tensor(a!) x) -> Tensor(a!)", lambda x: x.mul_(2)): "it changes its operands in place",
}
