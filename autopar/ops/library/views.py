"""Views: reshape and its relatives, and reorderings of dims. They move no data, and are linear.

The letters of a reshape are the common factors of both shapes (`autopar.ops.record.shape_factors`). Dims of extent 1 carry no
letter, which makes unsqueeze and squeeze reshapes like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext, function
from autopar.ops.record.op import Sample, T, memory, view
from autopar.ops.record.printing import atom, literal, tuple_text
from autopar.ops.record.rule import Call, Rule, normal_dim, normal_dims, with_linear
from autopar.ops.record.shape_factors import factor


def _reshape(call: Call) -> Rule:
    """Common factors of both shapes."""
    if len(call.operands) != 1:
        raise ValueError("the shape of another tensor")
    factored = factor(call.operands[0].shape, call.results[0].shape)
    return with_linear(Rule((factored.before,), (factored.after,), factored.extents, factored.frozen), {0})


def _emit_reshape(ctx: EmitContext) -> str:
    """Only the dims that change are named, so that split dims beside them need no size."""
    before, after = ctx.call.operands[0].shape, ctx.call.results[0].shape
    text = ctx.sizes(ctx.rule.results[0])
    first, last = _changed(before, after)
    old, new = before[first : len(before) - last], after[first : len(after) - last]
    if not old and not new:
        return str(ctx.args[0])
    if (old, new) in (((), (1,)), ((1,), ())):
        return f"{atom(ctx.args[0])}.{'unsqueeze' if new else 'squeeze'}({first})"
    if first and set(old) == {1} and not new:
        return f"{atom(ctx.args[0])}.flatten({first - 1}{f', {first - 1 + len(old)}' if last else ''})"
    if len(old) > 1 and len(new) == 1:
        stop = "" if not last else f", {len(before) - last - 1}"
        return f"{atom(ctx.args[0])}.flatten({'' if not first and not last else first}{stop})"
    if len(old) == 1 and len(new) > 1:
        return f"{atom(ctx.args[0])}.unflatten({first}, {tuple_text(_inferred(text[first : len(text) - last]))})"
    verb = "reshape" if _merges(ctx.rule) else "view"
    return f"{atom(ctx.args[0])}.{verb}({', '.join(_inferred(text)) or '()'})"


def _changed(before: Sequence[int], after: Sequence[int]) -> tuple[int, int]:
    """How many dims at the front and at the end are the same in both shapes."""
    shortest = min(len(before), len(after))
    first = next((i for i in range(shortest) if before[i] != after[i]), shortest)
    rest = shortest - first
    last = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    return first, last


def _inferred(text: Sequence[str]) -> list[str]:
    """The sizes, the only one that is not a number as -1: no other is 0, so that -1 stands for one size, be it 0."""
    open_dims = [i for i, extent in enumerate(text) if not extent.isdigit()]
    return ["-1" if open_dims == [i] else extent for i, extent in enumerate(text)]


def _merges(rule: Rule) -> bool:
    """Whether some dim of the result takes several dims of the operand, which a view of strided memory may not."""
    home = {letter: dim for dim, names in enumerate(rule.operands[0]) for letter in names}
    return bool(rule.frozen) or any(len({home[letter] for letter in names}) > 1 for names in rule.results[0])


view(
    "reshape",
    (
        "aten.reshape.default",
        "aten.view.default",
        "aten._unsafe_view.default",
        "aten.flatten.using_ints",
        "aten.unflatten.int",
    ),
    "common factors, as a b (c d) -> (a b) c d",
    _reshape,
    _emit_reshape,
    Sample((T((2, 4, 6)), (8, 6))),
    Sample((T((4, 12)), (4, 2, 3, 2))),
    Sample((T((4, 6)), (2, 4, 3))),
    Sample((T((4, 6)), (8, 3))),
    Sample((T((2, 3, 4)), (3, 2, 4))),
    Sample((T((4, 1, 6)), (1, 4, 6, 1))),
    Sample((T((2, 3, 2, 4)), (6, 8))),
    Sample((T((1, 1)), ())),
    Sample((T((2, 4, 3)), 1, 2), target="aten.flatten.using_ints"),
    Sample((T((2, 12, 3)), 1, (3, 4)), target="aten.unflatten.int"),
    Sample((T((4, 6), "index 9"), (24,)), target="aten.view.default"),
    Sample((T((4, 6)), (4, 2, 3)), target="aten.view.default"),
)


def _emit_unsqueeze(ctx: EmitContext) -> str:
    return f"{atom(ctx.args[0])}.unsqueeze({normal_dim(ctx.args[1], len(ctx.call.results[0].shape))})"


def _emit_squeeze(ctx: EmitContext) -> str:
    """Names the dims that go: a part of another dim may have extent 1, and must stay."""
    shape = ctx.call.operands[0].shape
    dims = set(normal_dims(ctx.args[1] if len(ctx.args) > 1 else None, len(shape)))
    gone = tuple(sorted(dim for dim in dims if shape and shape[dim] == 1))
    if not gone:
        return str(ctx.args[0])
    return f"{atom(ctx.args[0])}.squeeze({literal(gone if len(gone) > 1 else gone[0])})"


view(
    "unsqueeze", ("aten.unsqueeze.default",), "a* -> a* with a dim of extent 1", _reshape, _emit_unsqueeze,
    Sample((T((4, 6)), 1)), Sample((T((4, 6)), -1)),
)  # fmt: skip
view(
    "squeeze",
    ("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default"),
    "a* -> a* without dims of extent 1",
    _reshape,
    _emit_squeeze,
    Sample((T((4, 1, 3)), 1)),
    Sample((T((4, 1, 3)), 2)),
    Sample((T((3, 1, 2, 1)), (1, 3)), target="aten.squeeze.dims"),
    Sample((T((3, 1, 2, 1)),), target="aten.squeeze.default"),
)


def _order(call: Call) -> tuple[int, ...]:
    """For every dim of the result, the operand's dim that it is."""
    ndim = len(call.operands[0].shape)
    kind, args = call.function, call.node.args
    if kind in ("permute", "movedim"):
        return normal_dims(args[1], ndim)
    order = list(range(ndim))
    if kind in ("t", "numpy_T"):
        return tuple(reversed(order))
    if ndim:
        i, j = normal_dims((-2, -1) if kind in ("mT", "adjoint") else args[1:3], ndim)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def _permute(call: Call) -> Rule:
    """One letter per dim, in another order."""
    names = named(call.operands[0].shape)
    return with_linear(lettered(call, [names], [tuple(names[i] for i in _order(call))]), {0})


def _emit_permute(ctx: EmitContext) -> str:
    order = _order(ctx.call)
    moved = [i for i, dim in enumerate(order) if dim != i]
    if not moved:
        return str(ctx.args[0])
    if len(order) == 2:
        return f"{atom(ctx.args[0])}.T"
    if len(moved) == 2:
        return f"{atom(ctx.args[0])}.transpose({moved[0]}, {moved[1]})"
    return f"{atom(ctx.args[0])}.permute({', '.join(map(str, order))})"


view(
    "permute",
    ("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.numpy_T.default", "aten.mT.default"),
    "the same letters in another order",
    _permute,
    _emit_permute,
    Sample((T((2, 3, 4)), (2, 0, 1))),
    Sample((T((2, 3, 4, 2)), 1, -1), target="aten.transpose.int"),
    Sample((T((4, 6)),), target="aten.t.default"),
    Sample((T((2, 4, 3)),), target="aten.mT.default"),
)


def _expand(call: Call) -> Rule:
    """Dims that grow from 1, and new dims in front, have letters that the operand lacks."""
    shape, result = call.operands[0].shape, call.results[0].shape
    names, skip = named(result), len(result) - len(shape)
    before = tuple(names[skip + i] if n == result[skip + i] else () for i, n in enumerate(shape))
    return with_linear(lettered(call, [before], [names]), {0})


def _emit_expand(ctx: EmitContext) -> str:
    """-1 for the dims that stay."""
    text = ctx.sizes(ctx.rule.results[0])
    skip = len(text) - len(ctx.call.operands[0].shape)
    shape = ctx.call.operands[0].shape
    kept = [i >= skip and shape[i - skip] == n and n > 1 for i, n in enumerate(ctx.call.results[0].shape)]
    return f"{atom(ctx.args[0])}.expand({', '.join('-1' if stays else extent for stays, extent in zip(kept, text, strict=True))})"


view(
    "expand", ("aten.expand.default",), "b -> a b", _expand, _emit_expand,
    Sample((T((4, 1, 3)), (4, 6, 3))), Sample((T((3,)), (2, 4, 3))), Sample((T((1, 4)), (2, 1, 4))),
    Sample((T((1, 4), "index 9"), (6, 4))),
)  # fmt: skip


def _repeat(call: Call) -> Rule:
    """A repeated dim of n is ``(r n)``; the operand lacks r."""
    return _tiled(call, _counts(call), outer=True)


def _tiled(call: Call, repeats: Sequence[int], *, outer: bool) -> Rule:
    shape = call.operands[0].shape
    skip = len(repeats) - len(shape)
    extents = {f"r{i}": n for i, n in enumerate(repeats)} | {f"n{skip + i}": n for i, n in enumerate(shape)}
    if 0 in extents.values():
        raise ValueError("a tensor without elements")
    after: list[tuple[str, ...]] = []
    for i, count in enumerate(repeats):
        tile = (f"r{i}",) if count > 1 else ()
        rows = (f"n{i}",) if i >= skip and shape[i - skip] > 1 else ()
        after.append((*tile, *rows) if outer else (*rows, *tile))
    before = tuple((f"n{skip + i}",) if n > 1 else () for i, n in enumerate(shape))
    return with_linear(Rule((before,), (tuple(after),), extents), {0})


def _counts(call: Call) -> tuple[int, ...]:
    """How often every dim is repeated; ``tile`` may leave out the first ones."""
    counts = call.node.args[1]
    assert isinstance(counts, tuple)
    return (1,) * (len(call.operands[0].shape) - len(counts)) + counts


def _emit_repeat(ctx: EmitContext) -> str:
    """Local counts, as many as the call gives."""
    counts = [ctx.local.extent.get(f"r{i}", str(n)) for i, n in enumerate(_counts(ctx.call))]
    repeats = counts[len(counts) - len(ctx.args[1]) :]
    return f"{atom(ctx.args[0])}.{ctx.call.function}({', '.join(repeats) or '()'})"


memory(
    "repeat", ("aten.repeat.default",), "n -> (r n)", _repeat, _emit_repeat,
    Sample((T((4, 3)), (2, 1, 3))), Sample((T((1, 4)), (6, 2))),
)  # fmt: skip


def _repeat_interleave(call: Call) -> Rule:
    """A dim of n becomes ``(n r)``. Raises ValueError for the flattening form."""
    dim, count = call.arg(2, "dim"), call.node.args[1]
    if not isinstance(dim, int) or not isinstance(count, int):
        raise ValueError("repeat_interleave without a dim")
    ndim = len(call.operands[0].shape)
    return _tiled(call, [count if i == dim % ndim else 1 for i in range(ndim)], outer=False)


def _emit_repeat_interleave(ctx: EmitContext) -> str:
    dim = ctx.call.dim(2)
    return f"{atom(ctx.args[0])}.repeat_interleave({ctx.local.extent.get(f'r{dim}', str(ctx.args[1]))}, {dim})"


memory(
    "repeat_interleave", ("aten.repeat_interleave.self_int",), "n -> (n r)", _repeat_interleave,
    _emit_repeat_interleave, Sample((T((2, 4, 3)), 2, 1)),
)  # fmt: skip


memory(
    "tile", ("aten.tile.default",), "n -> (r n)", _repeat, _emit_repeat,
    Sample((T((4, 3)), (2,))), Sample((T((3,)), (2, 4))),
)  # fmt: skip


def _repeat_each(call: Call) -> Rule:
    """Rows of one dim as often as a tensor says: the dim is whole, before and after, and so is the tensor."""
    dim = call.arg(2, "dim")
    if not isinstance(dim, int) or call.arg(3, "output_size") is None:
        raise ValueError("as many rows as the numbers in a tensor say")
    shape, at = call.operands[0].shape, call.dim(2)
    counts = named(call.operands[1].shape, {0: "r"})
    rule = lettered(
        call, [named(shape), counts], [named(shape, {at: "y"})], (f"d{at}", "y", "r"), {"r": call.operands[1].numel}
    )
    return with_linear(rule, {0})


def _emit_repeat_each(ctx: EmitContext) -> str:
    dim = ctx.call.dim(2)
    return f"{atom(ctx.args[0])}.repeat_interleave({ctx.args[1]}, {dim}, output_size={ctx.call.results[0].shape[dim]})"


memory(
    "repeat_each", ("aten.repeat_interleave.self_Tensor",), "a [d] b, [r] -> a [y] b", _repeat_each, _emit_repeat_each,
    Sample((T((6, 4)), T((4,), "distinct 4"), 1), (("output_size", 6),)), saves="inputs",
)  # fmt: skip


def _channel_shuffle(call: Call) -> Rule:
    """Channels ``(g c)`` become ``(c g)``; torch is told the number of groups, which are whole."""
    shape, groups = call.operands[0].shape, call.node.args[1]
    assert isinstance(groups, int)
    before, after = named(shape, {1: "g c"}), named(shape, {1: "c g"})
    rule = lettered(call, [before], [after], "g", {"g": groups, "c": shape[1] // groups})
    return with_linear(replace(rule, filled=frozenset({"d0", "c"})), {0})


memory(
    "channel_shuffle", ("aten.channel_shuffle.default",), "n (g c) s* -> n (c g) s*", _channel_shuffle,
    function("F.channel_shuffle", 2), Sample((T((2, 8, 3)), 2)),
)  # fmt: skip
