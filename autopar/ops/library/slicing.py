"""Operators that cut a tensor along a dim or join tensors along one.

Cutting a dim into q equal pieces of n rows is ``(q n) -> n, n, n`` with q frozen: each rank cuts its own part of
every piece. That is how one fused query-key-value dim is split by heads. Joining equal extents is the mirror image.
Where a split dim is sliced, rolled, reversed, or joined of unequal extents, rows move to the ranks that have them in
the result (`autopar.runtime.functional.slicing`). Cutting it into unequal pieces needs it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, memory, register, view
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Rule, Window, normal_dim, normal_dims, with_linear
from autopar.ops.record.windows import by_place


def frozen_dims(call: Call, dims: Sequence[int]) -> Rule:
    """The same letters on both sides, except that `dims` must be whole and may change their extent."""
    shape, result = call.operands[0].shape, call.results[0].shape
    before, after = ({dim: f"{side}{dim}" for dim in dims} for side in "xy")
    rule = lettered(call, [named(shape, before)], [named(result, after)], {*before.values(), *after.values()})
    return with_linear(rule, {0})


def _piece_sizes(call: Call) -> tuple[int, tuple[int, ...]]:
    """The dim that is cut, and how many rows each piece has."""
    kind = call.function
    dim = call.dim(1 if kind == "unbind" else 2)
    extent = call.operands[0].shape[dim]
    if kind == "unbind":
        return dim, (1,) * extent
    sizes = call.node.args[1]
    if isinstance(sizes, tuple):
        return dim, tuple(int(n) for n in sizes)
    assert isinstance(sizes, int)
    rows = -(-extent // sizes) if kind == "chunk" else sizes
    return dim, tuple(min(rows, extent - start) for start in range(0, extent, max(rows, 1)))


def _split(call: Call) -> Rule:
    """``(q n) -> n, n, ...`` for equal pieces; q is frozen. An unread piece has no letters."""
    dim, rows = _piece_sizes(call)
    shape = call.operands[0].shape
    equal, unbound = len(set(rows)) == 1, call.function == "unbind"
    pieces = [named(shape, {dim: "n" if equal else f"p{i}"}) for i in range(len(rows))]
    results = [piece[:dim] + piece[dim + unbound :] for piece in pieces]
    if equal:
        rule = lettered(call, [named(shape, {dim: "q n"})], results, "q", {"q": len(rows), "n": rows[0]})
    else:
        rule = lettered(call, [named(shape)], results, {f"d{dim}", *(f"p{i}" for i in range(len(rows)))})
    return with_linear(rule, {0})


def _emit_split(ctx: EmitContext) -> str:
    """Equal pieces of a split dim by their number: it holds for parts of any extent, empty ones included."""
    dim, rows = _piece_sizes(ctx.call)
    if "unbind" in ctx.call.node.target:
        return f"{atom(ctx.args[0])}.unbind({dim})"
    if len(set(rows)) > 1:
        return f"{atom(ctx.args[0])}.split({literal(rows)}, {dim})"
    if "chunk" in ctx.call.node.target or "n" in ctx.local.splits:
        return f"{atom(ctx.args[0])}.chunk({len(rows)}, {dim})"
    return f"{atom(ctx.args[0])}.split({rows[0]}, {dim})"


view(
    "split",
    (
        "aten.split.Tensor",
        "aten.split_with_sizes.default",
        "aten.split.sizes",
        "aten.chunk.default",
        "aten.unbind.int",
    ),
    "(q n) -> n, n, ...",
    _split,
    _emit_split,
    Sample((T((2, 12)), 4, 1)),
    Sample((T((3, 5)), 2, -1)),
    Sample((T((6, 4)), (2, 3, 1)), target="aten.split_with_sizes.default"),
    Sample((T((2, 12)), (6, 6), 1), target="aten.split_with_sizes.default"),
    Sample((T((8, 3)), 2), target="aten.chunk.default"),
    Sample((T((4, 3, 2)), 1), target="aten.unbind.int"),
)


def _slice(call: Call) -> Rule:
    """Rows ``start + j step``: a window of one row, so that parts of a split dim are fetched from their owners."""
    shape, result = call.operands[0].shape, call.results[0].shape
    dim, (start, _, step) = call.dim(1), _bounds(call)
    if not shape[dim] or result[dim] < 2:
        return frozen_dims(call, [dim])
    rule = lettered(call, [named(shape)], [named(shape)])
    return with_linear(replace(rule, windows={f"d{dim}": Window(1, step, -start)}), {0})


def _bounds(call: Call) -> tuple[int, int, int]:
    """Start, stop and step, counted from the front."""
    bounds = slice(call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step", 1))
    return bounds.indices(call.operands[0].shape[call.dim(1)])


def _emit_slice(ctx: EmitContext) -> str:
    """``x[:, 2:5]``, or ``slice_rows(x, 1, 2, 5, 1, (DATA, 6))`` where that dim is split."""
    dim, extent = ctx.call.dim(1), ctx.call.operands[0].shape[ctx.call.dim(1)]
    start, stop, step = _bounds(ctx.call)
    axis = ctx.axis(f"d{dim}")
    if axis:
        return f"slice_rows({ctx.args[0]}, {dim}, {start}, {stop}, {step}, ({axis}, {extent}))"
    text = f"{start or ''}:{stop if stop < extent else ''}" + (f":{step}" if step != 1 else "")
    return f"{atom(ctx.args[0])}[{':, ' * dim}{text}]"


def _select(call: Call) -> Rule:
    """One row of a dim, which goes away. Where it is split, the rank that has the row yields it."""
    dim, shape = call.dim(1), call.operands[0].shape
    names = named(shape)
    rule = lettered(call, [names], [names[:dim] + names[dim + 1 :]])
    return by_place(with_linear(rule, {0}), [f"d{dim}"])


def _emit_select(ctx: EmitContext) -> str:
    dim, index = ctx.call.dim(1), ctx.pick(2, "index")
    split = ctx.place(f"d{dim}")
    if split:
        return f"select_row({ctx.args[0]}, {dim}, {index}, {split})"
    return f"{atom(ctx.args[0])}[{':, ' * dim}{index}]"


view(
    "slice", ("aten.slice.Tensor",), "a d~ b -> a d~ b", _slice, _emit_slice,
    Sample((T((4, 6)), 1, 1, 5)), Sample((T((6, 4)), 0, 0, 6, 2)), Sample((T((2, 6, 4)), 1, -2, 2**62)),
    Sample((T((4, 9)), 1, 1, 8, 3)), Sample((T((6, 4), "index 9"), 0, 2, 5)), Sample((T((6, 4)), 0, 5, 6)),
)  # fmt: skip
view(
    "select", ("aten.select.int",), "a d b -> a b", _select, _emit_select,
    Sample((T((4, 3, 2)), 1, 2)), Sample((T((4, 6)), 0, -1)),
)  # fmt: skip


def _cat_dim(call: Call) -> int:
    """The dim along which tensors are joined; hstack, vstack and dstack are joins of tensors with enough dims."""
    name, ndim = call.function, len(call.operands[0].shape)
    if name == "cat":
        return call.dim(1)
    dim = {"hstack": min(1, ndim - 1), "vstack": 0, "dstack": 2}[name]
    if ndim <= dim or (name == "vstack" and ndim < 2):
        raise ValueError("tensors that get a new dim")
    return dim


def _cat(call: Call) -> Rule:
    """``n, n -> (q n)`` for equal extents, q frozen; otherwise rows of the operands move to where the result has them."""
    dim, ndim = _cat_dim(call), len(call.results[0].shape)
    if any(len(value.shape) != ndim for value in call.operands):
        raise ValueError("a legacy cat with an empty tensor")
    rows = [value.shape[dim] for value in call.operands]
    shape, count = call.results[0].shape, len(rows)
    if len(set(rows)) == 1:
        rule = lettered(call, [named(shape, {dim: "n"})] * count, [named(shape, {dim: "q n"})], "q", {"q": count})
    else:
        rule = by_place(lettered(call, [named(shape)] * count, [named(shape)]), [f"d{dim}"])
    return with_linear(rule, range(count))


def _emit_cat(ctx: EmitContext) -> str:
    """``torch.cat((x, y), 1)``, or ``cat((x, y), 1, DATA, (1, 196))`` where unequal operands are split there."""
    dim = _cat_dim(ctx.call)
    axis = ctx.axis(f"d{dim}")
    if axis and ctx.rule.windows:
        extents = tuple(value.shape[dim] for value in ctx.call.operands)
        return f"cat({literal(ctx.args[0])}, {dim}, {axis}, {literal(extents)})"
    return invoke("torch.cat", (ctx.args[0],) if dim == 0 else (ctx.args[0], dim))


def _stack(call: Call) -> Rule:
    """A new dim, whole."""
    dim = normal_dim(call.arg(1, "dim", 0), len(call.results[0].shape))
    names, count = named(call.operands[0].shape), len(call.operands)
    rule = lettered(call, [names] * count, [(*names[:dim], ("q",), *names[dim:])], "q")
    return with_linear(rule, range(count))


def _emit_stack(ctx: EmitContext) -> str:
    dim = normal_dim(ctx.pick(1, "dim", 0), len(ctx.call.results[0].shape))
    return invoke("torch.stack", (ctx.args[0],) if dim == 0 else (ctx.args[0], dim))


memory(
    "cat", ("aten.cat.default", "aten.hstack.default", "aten.vstack.default", "aten.dstack.default"), "n, n, ... -> (q n)",
    _cat, _emit_cat, Sample(((T((4, 2)), T((4, 3))),), target="aten.hstack.default"),
    Sample(((T((4, 2, 1)), T((4, 2, 1))),), target="aten.dstack.default"),
    Sample(((T((2, 1)), T((2, 6)), T((2, 3))), 1)), Sample(((T((1, 4), "index 9"), T((6, 4), "index 9")),)),
    Sample(((T((2, 4, 3)), T((2, 4, 3))), 1)), Sample(((T((4, 2)), T((4, 3))), -1)),
    Sample(((T((4, 6)), T((4, 6), "constant"), T((4, 6))),)),
)  # fmt: skip
memory(
    "stack", ("aten.stack.default",), "a*, a* -> a* with a new dim", _stack, _emit_stack,
    Sample(((T((4, 3)), T((4, 3))), 1)), Sample(((T((4, 3)), T((4, 3))),)),
)  # fmt: skip


def _moved_dims(call: Call) -> tuple[int, ...]:
    """The dims that are rolled or reversed."""
    dims = call.arg(2, "dims", ()) if "roll" in call.node.target else call.node.args[1]
    return normal_dims(dims, len(call.operands[0].shape))


def _flip(call: Call) -> Rule:
    """Rows in another order: parts of a split dim are fetched from their owners."""
    dims = _moved_dims(call)
    if not dims:
        raise ValueError("a roll of the flattened tensor")
    names = named(call.operands[0].shape)
    return by_place(with_linear(lettered(call, [names], [names]), {0}), [f"d{dim}" for dim in dims])


def _emit_flip(ctx: EmitContext) -> str:
    """``x.roll(2, 1)``, or ``roll(x, 2, 1, {1: (DATA, 16)})``; the same for flip."""
    name = "roll" if "roll" in ctx.call.node.target else "flip"
    split = {dim: ctx.place(f"d{dim}") for dim in _moved_dims(ctx.call)}
    parts = [f"{dim}: {place}" for dim, place in sorted(split.items()) if place]
    if parts:
        amounts = (
            (literal(ctx.args[1]), literal(_moved_dims(ctx.call)))
            if name == "roll"
            else (literal(_moved_dims(ctx.call)),)
        )
        return f"{name}({ctx.args[0]}, {', '.join(amounts)}, {{{', '.join(parts)}}})"
    return invoke(f"{atom(ctx.args[0])}.{name}", ctx.args[1:])


def _moved(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
    """The rows that change their rank: those that a roll is long, at most all of a rank's; a flip moves all."""
    if letter not in rule.windows:
        return ()
    value, dim = call.operands[0], int(letter[1:])
    n, rows = value.shape[dim], value.shape[dim] // 2
    if "roll" in call.node.target:
        shifts = call.node.args[1]
        shift = (shifts if isinstance(shifts, tuple) else (shifts,))[_moved_dims(call).index(dim)]
        assert isinstance(shift, int)
        rows = min(shift % n, n - shift % n, rows)
    size = float(value.nbytes // n * rows)
    others = tuple(name for dims in rule.operands[0] for name in dims if name != letter)
    return (Inner("halo", size, size if value.differentiable else 0.0, others),)


register(
    Op(
        "flip", ("aten.flip.default", "aten.roll.default"), "a d b -> a d b", _flip, _emit_flip, work="memory",
        saves="", inner=_moved,
        samples=(
            Sample((T((4, 6)), (1,))), Sample((T((4, 6)), (2,), (-1,)), target="aten.roll.default"),
            Sample((T((4, 6)), (-1, 2), (0, 1)), target="aten.roll.default"),
            Sample((T((4, 6), "index 9"), (-1,), (0,)), target="aten.roll.default"),
        ),
    )
)  # fmt: skip


def _windows(call: Call) -> Rule:
    """``x.unfold(dim, size, step)``: windows along a dim, their rows in a last dim."""
    size, step = call.node.args[2:4]
    assert isinstance(size, int)
    assert isinstance(step, int)
    names = named(call.operands[0].shape, {call.dim(1): "w"})
    rule = lettered(call, [names], [(*names, ("k",))], "k")
    return with_linear(replace(rule, windows={"w": Window(size, step)}), {0})


def _emit_windows(ctx: EmitContext) -> str:
    """``x.unfold(1, 3, 2)``, or ``unfold(x, 1, 3, 2, (DATA, 16))`` where that dim is split."""
    dim, axis = ctx.call.dim(1), ctx.axis("w")
    if axis:
        return (
            f"unfold({ctx.args[0]}, {dim}, {ctx.args[2]}, {ctx.args[3]}, ({axis}, {ctx.call.operands[0].shape[dim]}))"
        )
    return invoke(f"{atom(ctx.args[0])}.unfold", (dim, *ctx.args[2:]))


memory(
    "unfold", ("aten.unfold.default",), "a w~ b -> a w~ b [k]", _windows, _emit_windows,
    Sample((T((4, 6)), 1, 3, 2)), Sample((T((6, 4)), -2, 2, 1)), Sample((T((4, 9), "index 9"), 1, 2, 3)),
)  # fmt: skip


def _glu(call: Call) -> Rule:
    """``(q n) -> n`` with two whole halves: every rank holds its part of both."""
    shape, dim = call.operands[0].shape, call.dim(1, -1)
    return lettered(call, [named(shape, {dim: "q n"})], [named(shape, {dim: "n"})], "q", {"q": 2})


def _emit_glu(ctx: EmitContext) -> str:
    return invoke("F.glu", (ctx.args[0],), [("dim", ctx.call.dim(1, -1), len(ctx.call.operands[0].shape) - 1)])


register(
    Op(
        "glu", ("aten.glu.default",), "a (q n) b -> a n b", _glu, _emit_glu, backward=2.0,
        samples=(Sample((T((4, 8)),)), Sample((T((8, 3)), 0))),
    )
)  # fmt: skip
