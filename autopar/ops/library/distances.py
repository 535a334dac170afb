"""Distances, cosines, cross products and rotations: functions of vectors along dims that are whole.

cdist                d[b, m, n] = |x[b, m] - y[b, n]|       points are letters, their coordinates k are whole
cosine_similarity    c[a, b] = x . y / |x| |y| along k
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autopar.ops.record.dim_letters import joint_shape, lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext, function
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.printing import atom, invoke
from autopar.ops.record.rule import Call, Rule, broadcast, letters, normal_dim, normal_dims, with_linear

_X = T((4, 6))


def _cdist(call: Call) -> Rule:
    """A distance with p = 1 is a sum over the coordinates."""
    k = "k" if call.arg(2, "p", 2.0) == 1 else "[k]"
    return letters(f"b* m {k}, b* n {k} -> b* m n", call)


def _emit_cdist(ctx: EmitContext) -> str:
    modes = {None: None, 0: None, 1: "use_mm_for_euclid_dist", 2: "donot_use_mm_for_euclid_dist"}
    mode = modes[ctx.pick(3, "compute_mode")]
    return invoke("torch.cdist", ctx.args[:2], [("p", ctx.pick(2, "p", 2), 2), ("compute_mode", mode, None)])


def _full(call: Call) -> Rule:
    """One letter per dim of what both operands are broadcast to."""
    shape = joint_shape(value.shape for value in call.operands)
    return broadcast(replace(call, results=(replace(call.results[0], shape=shape),)))


def along(call: Call, place: object, keepdim: bool = False) -> Rule:
    """Both operands along one whole dim of what they are broadcast to, which goes away."""
    rule = _full(call)
    names = rule.results[0]
    dim = normal_dim(place, len(names))
    kept = tuple(() if i == dim else name for i, name in enumerate(names) if keepdim or i != dim)
    return replace(rule, results=(kept,), frozen=frozenset({f"d{dim}"}))


def _pairwise(call: Call) -> Rule:
    """A distance with p = 1 is a sum over the coordinates."""
    rule = along(call, -1, bool(call.arg(4, "keepdim", False)))
    return replace(rule, frozen=frozenset()) if call.arg(2, "p", 2.0) == 1 else rule


def _cross(call: Call) -> Rule:
    rule = broadcast(call)
    dim = normal_dim(call.arg(2, "dim", -1), len(call.results[0].shape))
    return with_linear(replace(rule, frozen=frozenset({f"d{dim}"})), {0}, {1})


def _dist(call: Call) -> Rule:
    """One number of everything."""
    rule = _full(call)
    return replace(rule, results=((),), frozen=frozenset(rule.extents))


def _rot90(call: Call) -> Rule:
    """Two dims change places, or are reversed, or both; one that is reversed is whole."""
    shape = call.operands[0].shape
    i, j = normal_dims(call.arg(2, "dims", (0, 1)), len(shape))
    turns = call.arg(1, "k", 1)
    assert isinstance(turns, int)
    kept = {0: {i: i, j: j}, 1: {j: i}, 2: {}, 3: {i: j}}[
        turns % 4
    ]  # by dim of the result, the dim that it is in order
    turned = {dim: f"d{kept[dim]}" if dim in kept else f"y{dim}" for dim in (i, j)}
    whole = {f"d{dim}" for dim in (i, j) if dim not in kept.values()} | {f"y{dim}" for dim in (i, j) if dim not in kept}
    return with_linear(lettered(call, [named(shape)], [named(shape, turned)], whole), {0})


def _emit_rot90(ctx: EmitContext) -> str:
    return invoke(f"{atom(ctx.args[0])}.rot90", (ctx.pick(1, "k", 1), ctx.pick(2, "dims", (0, 1))))


_TABLE: tuple[tuple[str, str, str, Callable[[Call], Rule], Emit, str, tuple[Sample, ...]], ...] = (
    (
        "cdist", "aten.cdist.default", "b* m [k], b* n [k] -> b* m n", _cdist, _emit_cdist, "reduce",
        (Sample((_X, T((3, 6)))), Sample((T((2, 4, 3)), T((2, 6, 3)), 1.0))),
    ),
    (
        "cosine_similarity", "aten.cosine_similarity.default", "a [k] b, a [k] b -> a b",
        lambda call: along(call, call.arg(2, "dim", 1)),
        function("F.cosine_similarity", 2, ("dim", 1), ("eps", 1e-8)), "reduce",
        (Sample((_X, _X)), Sample((T((4, 1, 3)), T((6, 3)), -1))),
    ),
    (
        "pairwise_distance", "aten.pairwise_distance.default", "b* [k], b* [k] -> b*", _pairwise,
        function("F.pairwise_distance", 2, ("p", 2.0), ("eps", 1e-6), ("keepdim", False)), "reduce",
        (Sample((_X, _X)), Sample((_X, T((6,)), 1.0, 1e-6, True))),
    ),
    (
        "cross", "aten.linalg_cross.default", "a [k] b, a [k] b -> a k b", _cross,
        function("torch.linalg.cross", 2, ("dim", -1)), "pointwise",
        (Sample((T((4, 3)), T((4, 3)))),),
    ),
    (
        "dist", "aten.dist.default", "[d]*, [d]* ->", _dist, function("torch.dist", 2, ("p", 2)), "reduce",
        (Sample((_X, T((6,)))),),
    ),
    (
        "rot90", "aten.rot90.default", "[m] [n] b* -> [n] [m] b*", _rot90, _emit_rot90, "memory",
        (Sample((T((4, 3, 2)),)), Sample((T((4, 3, 6)), 2, (1, 2))), Sample((T((4, 6)), 3, (1, 0)))),
    ),
)  # fmt: skip
for _name, _target, _note, _rule, _emit, _work, _samples in _TABLE:
    register(Op(_name, (_target,), _note, _rule, _emit, work=_work, backward=2.0, samples=_samples))
