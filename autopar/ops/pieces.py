"""Operators that cut a tensor along a dim or join tensors along one.

Cutting a dim into q equal pieces of n rows is ``(q n) -> n, n, n`` with q frozen: each rank cuts its own part of
every piece. That is how one fused query-key-value dim is split by heads. Joining equal extents is the mirror image.
Unequal pieces, slices and paddings need the dim whole: it is frozen, under another letter on each side where its
extent changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopar.ops.op import Emit, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, with_linear
from autopar.ops.text import atom, invoke, literal, normal_dim, pick


def _names(shape: Sequence[int], change: Mapping[int, tuple[str, ...]]) -> Dims:
    """One letter per dim, `change` for some."""
    return tuple(change.get(i, (f"d{i}",)) for i in range(len(shape)))


def _dim_of(call: Call, position: int, default: int = 0) -> int:
    return normal_dim(call.arg(position, "dim", default), len(call.operands[0].shape))


def frozen_dims(call: Call, dims: Sequence[int]) -> Rule:
    """The same letters on both sides, except that `dims` must be whole and may change their extent."""
    shape, result = call.operands[0].shape, call.results[0].shape
    before = _names(shape, {dim: (f"x{dim}",) for dim in dims})
    after = _names(result, {dim: (f"y{dim}",) for dim in dims})
    extents = {f"d{i}": n for i, n in enumerate(shape)}
    extents |= {f"x{dim}": shape[dim] for dim in dims} | {f"y{dim}": result[dim] for dim in dims}
    frozen = frozenset(f"{side}{dim}" for dim in dims for side in "xy")
    rule = Rule((before,), (after,), extents, frozen)
    return with_linear(rule, {0})


def _piece_sizes(call: Call) -> tuple[int, tuple[int, ...]]:
    """The dim that is cut, and how many rows each piece has."""
    kind = call.node.target.split(".")[1]
    dim = _dim_of(call, 1 if kind == "unbind" else 2)
    extent = call.operands[0].shape[dim]
    if kind == "unbind":
        return dim, (1,) * extent
    given = call.node.args[1]
    if isinstance(given, tuple):
        return dim, tuple(int(n) for n in given)
    assert isinstance(given, int)
    rows = -(-extent // given) if kind == "chunk" else given
    return dim, tuple(min(rows, extent - start) for start in range(0, extent, max(rows, 1)))


def _split(call: Call) -> Rule:
    """``(q n) -> n, n, ...`` for equal pieces; q is frozen. An unread piece has no letters."""
    dim, rows = _piece_sizes(call)
    shape = call.operands[0].shape
    equal = len(set(rows)) == 1
    inner = ("n",) if equal else (f"d{dim}",)
    whole = ("q", "n") if equal else (f"d{dim}",)
    extents = {f"d{i}": n for i, n in enumerate(shape)} | ({"q": len(rows), "n": rows[0]} if equal else {})
    pieces = {f"p{i}": n for i, n in enumerate(rows)}
    results = []
    for i, value in enumerate(call.results):
        dims = list(_names(shape, {dim: inner if equal else (f"p{i}",)}))
        if "unbind" in call.node.target:
            del dims[dim]
        results.append(tuple(dims) if value.name else ())
    frozen = frozenset({"q"} if equal else {f"d{dim}", *pieces})
    rule = Rule((_names(shape, {dim: whole}),), tuple(results), extents | ({} if equal else pieces), frozen)
    return with_linear(rule, {0})


def _emit_split(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Equal pieces of a split dim by their number: it holds for parts of any extent, empty ones included."""
    dim, rows = _piece_sizes(call)
    if "unbind" in call.node.target:
        return f"{atom(args[0])}.unbind({dim})"
    if len(set(rows)) > 1:
        return f"{atom(args[0])}.split({literal(rows)}, {dim})"
    if "chunk" in call.node.target or "n" in local.splits:
        return f"{atom(args[0])}.chunk({len(rows)}, {dim})"
    return f"{atom(args[0])}.split({rows[0]}, {dim})"


def _view(
    name: str, targets: tuple[str, ...], note: str, rule: Callable[[Call], Rule], emit: Emit, *samples: Sample
) -> None:
    register(Op(name, targets, note, rule, emit, work="view", saves="", samples=samples))


_view(
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
    return frozen_dims(call, [_dim_of(call, 1)])


def _emit_slice(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """``x[:, 2:5]``."""
    dim, extent = _dim_of(call, 1), call.operands[0].shape[_dim_of(call, 1)]
    step = pick(args, kwargs, 4, "step", 1)
    start, stop, _ = slice(pick(args, kwargs, 2, "start"), pick(args, kwargs, 3, "end")).indices(extent)
    text = f"{start or ''}:{stop if stop < extent else ''}" + (f":{step}" if step != 1 else "")
    return f"{atom(args[0])}[{':, ' * dim}{text}]"


def _select(call: Call) -> Rule:
    """One row of a dim, which goes away."""
    dim, shape = _dim_of(call, 1), call.operands[0].shape
    names = _names(shape, {})
    after = tuple(one for i, one in enumerate(names) if i != dim)
    extents = {f"d{i}": n for i, n in enumerate(shape)}
    return with_linear(Rule((names,), (after,), extents, frozenset({f"d{dim}"})), {0})


def _emit_select(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])}[{':, ' * _dim_of(call, 1)}{pick(args, kwargs, 2, 'index')}]"


_view(
    "slice", ("aten.slice.Tensor",), "[d], others split -> the same", _slice, _emit_slice,
    Sample((T((4, 6)), 1, 1, 5)), Sample((T((6, 4)), 0, 0, 6, 2)), Sample((T((2, 6, 4)), 1, -2, 2**62)),
)  # fmt: skip
_view(
    "select", ("aten.select.int",), "a [d] b -> a b", _select, _emit_select,
    Sample((T((4, 3, 2)), 1, 2)), Sample((T((4, 6)), 0, -1)),
)  # fmt: skip


def _cat(call: Call) -> Rule:
    """``n, n -> (q n)`` for equal extents, q frozen; otherwise the dim is whole on all sides."""
    dim, ndim = _dim_of(call, 1), len(call.results[0].shape)
    if any(len(value.shape) != ndim for value in call.operands):
        raise ValueError("a legacy cat with an empty tensor")
    rows = [value.shape[dim] for value in call.operands]
    extents = {f"d{i}": n for i, n in enumerate(call.results[0].shape)}
    if len(set(rows)) == 1:
        operands = tuple(_names(value.shape, {dim: ("n",)}) for value in call.operands)
        extents |= {"q": len(rows), "n": rows[0]}
        rule = Rule(operands, (_names(call.results[0].shape, {dim: ("q", "n")}),), extents, frozenset({"q"}))
    else:
        operands = tuple(_names(value.shape, {dim: (f"p{i}",)}) for i, value in enumerate(call.operands))
        parts = {f"p{i}": n for i, n in enumerate(rows)}
        rule = Rule(operands, (_names(call.results[0].shape, {}),), extents | parts, frozenset({f"d{dim}", *parts}))
    return with_linear(rule, range(len(rows)))


def _emit_cat(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    dim = _dim_of(call, 1)
    return invoke("torch.cat", (args[0],) if dim == 0 else (args[0], dim))


def _stack(call: Call) -> Rule:
    """A new dim, whole."""
    dim = normal_dim(call.arg(1, "dim", 0), len(call.results[0].shape))
    shape = call.operands[0].shape
    names = _names(shape, {})
    extents = {f"d{i}": n for i, n in enumerate(shape)} | {"q": len(call.operands)}
    after = (*names[:dim], ("q",), *names[dim:])
    rule = Rule(tuple(names for _ in call.operands), (after,), extents, frozenset({"q"}))
    return with_linear(rule, range(len(call.operands)))


def _emit_stack(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    dim = normal_dim(pick(args, kwargs, 1, "dim", 0), len(call.results[0].shape))
    return invoke("torch.stack", (args[0],) if dim == 0 else (args[0], dim))


def _memory(
    name: str, targets: tuple[str, ...], note: str, rule: Callable[[Call], Rule], emit: Emit, *samples: Sample
) -> None:
    register(Op(name, targets, note, rule, emit, work="memory", saves="", samples=samples))


_memory(
    "cat", ("aten.cat.default",), "n, n, ... -> (q n)", _cat, _emit_cat,
    Sample(((T((2, 4, 3)), T((2, 4, 3))), 1)), Sample(((T((4, 2)), T((4, 3))), -1)),
    Sample(((T((4, 6)), T((4, 6), "constant"), T((4, 6))),)),
)  # fmt: skip
_memory(
    "stack", ("aten.stack.default",), "a*, a* -> a* with a new dim", _stack, _emit_stack,
    Sample(((T((4, 3)), T((4, 3))), 1)), Sample(((T((4, 3)), T((4, 3))),)),
)  # fmt: skip


def _pad(call: Call) -> Rule:
    """Padded dims are whole. Linear where the padding is zeros or rows of x."""
    given = call.node.args[1]
    assert isinstance(given, tuple)
    ndim = len(call.operands[0].shape)
    dims = [ndim - 1 - i for i in range(len(given) // 2) if given[2 * i] or given[2 * i + 1]]
    rule = frozen_dims(call, dims)
    if "constant_pad_nd" in call.node.target:
        return rule if not call.arg(2, "value", 0) else with_linear(rule)
    mode, value = call.arg(2, "mode", "constant"), call.arg(3, "value")
    if mode != "constant":  # torch's kernels refuse empty channels there
        return _with_filled(rule, ndim, len(given) // 2)
    return rule if not value else with_linear(rule)


def _with_filled(rule: Rule, ndim: int, padded: int) -> Rule:
    letters = {f"d{dim}" for dim in range(1, ndim) if dim >= ndim - padded - 1}
    return replace(rule, filled=frozenset(letters))


def _emit_pad(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if "constant_pad_nd" in call.node.target:
        return invoke("F.pad", args[:2], [("value", pick(args, kwargs, 2, "value", 0), 0)])
    mode, value = pick(args, kwargs, 2, "mode", "constant"), pick(args, kwargs, 3, "value", 0)
    return invoke("F.pad", args[:2], [("mode", mode, "constant"), ("value", value, 0)])


_memory(
    "pad", ("aten.pad.default", "aten.constant_pad_nd.default"), "[d] -> [d'], others split", _pad, _emit_pad,
    Sample((T((2, 4, 6)), (1, 2))), Sample((T((2, 4, 6)), (0, 0, 1, 0), "constant", 1.5)),
    Sample((T((2, 4, 6)), (1, 1), "reflect")), Sample((T((2, 4, 6)), (0, 1)), target="aten.constant_pad_nd.default"),
)  # fmt: skip


def _flip(call: Call) -> Rule:
    """Reversed or rolled dims are whole."""
    roll = "roll" in call.node.target
    given = call.arg(2, "dims", ()) if roll else call.node.args[1]
    dims = given if isinstance(given, tuple) else (given,)
    if not dims:
        raise ValueError("a roll of the flattened tensor")
    return frozen_dims(call, [normal_dim(dim, len(call.operands[0].shape)) for dim in dims])


def _emit_flip(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return invoke(f"{atom(args[0])}.{'roll' if 'roll' in call.node.target else 'flip'}", args[1:])


_memory(
    "flip", ("aten.flip.default", "aten.roll.default"), "[d], others split -> the same", _flip, _emit_flip,
    Sample((T((4, 6)), (1,))), Sample((T((4, 6)), (2,), (-1,)), target="aten.roll.default"),
)  # fmt: skip


def _triangle(call: Call) -> Rule:
    ndim = len(call.operands[0].shape)
    return frozen_dims(call, [ndim - 2, ndim - 1])


def _emit_triangle(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    diagonal = pick(args, kwargs, 1, "diagonal", 0)
    return invoke(f"{atom(args[0])}.{call.node.target.split('.')[1]}", (diagonal,) if diagonal else ())


_memory(
    "triangle", ("aten.tril.default", "aten.triu.default"), "b* [m] [n] -> b* [m] [n]", _triangle, _emit_triangle,
    Sample((T((2, 4, 4)),)), Sample((T((4, 3, 3)), 1), target="aten.triu.default"),
)  # fmt: skip
