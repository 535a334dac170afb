"""Rows read, written and added by index: gather, index_select, index, scatter, index_add, index_put and their kin.

    gather       y[b, i] = x[b, index[b, i]]                 index        y[a, i, c] = x[a, index[i], c]
    scatter      y = x, but y[b, index[b, i]] = src[b, i]    index_add    y = x + sum_i src[a, i, c] at row index[i]

The dims of an index are letters, and so are those of x that no index counts. The rows v that an index counts may be
split, too: each rank looks up those of its own, zeros stand for all others, and the addends of the ranks make the
result; or writes those that are its own (`autopar.runtime.lookup` and its relatives). Where rows are added, the index
may be split into partial sums, with x added once; where they are overwritten, the last one wins, and it is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopar.ir.graph import Ref
from autopar.ops.record.dim_letters import aligned, joint_shape, lettered, named
from autopar.ops.record.emit_context import EmitContext, method
from autopar.ops.record.op import Sample, T, memory
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Dims, Rule, broadcast, floating, with_linear
from autopar.ops.record.windows import by_place

_ADDING = ("add", "sum")


def _lookup(call: Call, dim: int) -> Rule:
    """Rows along `dim` of operand 0 by operand 1 (of any number of dims, which take the place of `dim`)."""
    shape, rows = call.operands[0].shape, call.operands[1].shape
    table, taken = named(shape), named(rows, prefix="i")
    after = (*table[:dim], *taken, *table[dim + 1 :])
    return by_place(with_linear(lettered(call, [table, taken], [after]), {0}), [f"d{dim}"])


def _index_select(call: Call) -> Rule:
    if not call.operands[0].shape or len(call.operands[1].shape) != 1:
        raise ValueError("an index or a table without dims")
    return _lookup(call, call.dim(1))


def _emit_index_select(ctx: EmitContext) -> str:
    """The plain call, or this rank's addend where the table's rows are split."""
    split = ctx.place(f"d{ctx.call.dim(1)}")
    if split:
        return invoke("lookup", (ctx.args[0], ctx.call.dim(1), ctx.args[2]), [("over", split, None)])
    return f"{atom(ctx.args[0])}.index_select({ctx.call.dim(1)}, {ctx.args[2]})"


memory(
    "index_select", ("aten.index_select.default",), "a* v b*, i -> a* i b*", _index_select, _emit_index_select,
    Sample((T((2, 7, 4)), 1, T((6,), "index 7"))), Sample((T((6, 3), "index 9"), 0, T((4,), "index 6"))),
    Sample((T((8, 3)), 0, T((6,), "index 8"))), saves="inputs",
)  # fmt: skip


def _places(call: Call) -> dict[int, int]:
    """For every dim that an index tensor counts, the operand that is this tensor."""
    places = call.node.args[1]
    assert isinstance(places, tuple)
    indexed = [dim for dim, place in enumerate(places) if isinstance(place, Ref)]
    return {dim: 1 + i for i, dim in enumerate(indexed)}


def _counted(call: Call, places: Mapping[int, int]) -> tuple[dict[int, Dims], tuple[int, ...]]:
    """Letters ``i0 i1 ...`` of the index tensors by operand, and the shape that they broadcast to. No masks: ValueError."""
    tensors = {i: call.operands[i] for i in places.values()}
    if not places or any(value.dtype in ("bool", "uint8") for value in tensors.values()):
        raise ValueError("a mask, whose result depends on its values")
    shape = joint_shape(value.shape for value in tensors.values())
    names = named(shape, prefix="i")
    return {i: aligned(value.shape, names, shape) for i, value in tensors.items()}, shape


def _at(places: Mapping[int, int]) -> int:
    """Where the index's dims stand among the result's: in place of the counted ones if these are neighbours."""
    dims = sorted(places)
    return dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0


def _index(call: Call) -> Rule:
    """``x[:, i]``, ``x[i, j]``: several index tensors are broadcast, and their dims have the counted rows whole."""
    places = _places(call)
    if len(places) == 1 and _counted(call, places):
        return _lookup(call, next(iter(places)))
    letters, rows = _counted(call, places)
    table = named(call.operands[0].shape)
    operands = (table, *(letters[i] for i in places.values()))
    rule = lettered(call, operands, [_indexed(table, places, rows)], {f"d{dim}" for dim in places})
    return with_linear(rule, {0})


def _indexed(table: Dims, places: Mapping[int, int], rows: Sequence[int]) -> Dims:
    """The dims of what an index of this shape reads: its own ``i0 i1 ...`` among those of the table that it does not count."""
    kept, at = [names for dim, names in enumerate(table) if dim not in places], _at(places)
    return (*kept[:at], *named(rows, prefix="i"), *kept[at:])


def _emit_index(ctx: EmitContext) -> str:
    """``x[:, i]``, or this rank's addend where the rows that the only index counts are split."""
    places = _places(ctx.call)
    dim = next(iter(places))
    split = ctx.place(f"d{dim}") if len(places) == 1 else None
    if split:
        return invoke("lookup", (ctx.args[0], dim, ctx.args[1][dim]), [("over", split, None)])
    last = max(places)
    inner = ", ".join(":" if place is None else literal(place) for place in ctx.args[1][: last + 1])
    return f"{atom(ctx.args[0])}[{inner}]"


memory(
    "index", ("aten.index.Tensor", "aten._unsafe_index.Tensor"), "a* v b*, i* -> a* i* b*", _index, _emit_index,
    Sample((T((2, 7, 4)), (None, T((2, 6), "index 7")))), Sample((T((8, 4)), (T((6,), "index 8"),))),
    Sample((T((5, 7, 4)), (T((4, 1), "index 5"), T((4, 6), "index 7")))),
    Sample((T((5, 4, 3)), (T((4,), "index 5"), None, T((4,), "index 3")))),
    Sample((T((3, 5, 4), "index 9"), (None, T((4,), "index 5"), T((2, 1), "index 4")))), saves="inputs",
)  # fmt: skip


def _along(call: Call) -> tuple[int, Dims, Dims, set[str]]:
    """(dim, letters of x, letters of the index, letters that must be whole) where both have as many dims.

    Dims beside `dim` are one letter where both have the same extent; a shorter index reads the first rows only.
    """
    x, index = call.operands[0], call.operands[1]
    dim = call.dim(1)
    if not x.shape or not index.shape:
        raise ValueError("a tensor without dims")
    alike = [i != dim and n == m for i, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))]
    table: Dims = tuple((f"d{i}",) if same or i == dim else (f"x{i}",) for i, same in enumerate(alike))
    rows: Dims = tuple((f"d{i}",) if same else (f"i{i}",) for i, same in enumerate(alike))
    whole = {f"{side}{i}" for i, same in enumerate(alike) if not same and i != dim for side in "xi"}
    return dim, table, rows, whole


def _gather(call: Call) -> Rule:
    """y[b, i] = x[b, index[b, i]]."""
    dim, table, rows, whole = _along(call)
    return by_place(with_linear(lettered(call, [table, rows], [rows], whole), {0}), [f"d{dim}"])


def _emit_gather(ctx: EmitContext) -> str:
    split = ctx.place(f"d{ctx.call.dim(1)}")
    if split:
        return invoke("lookup_along", (ctx.args[0], ctx.call.dim(1), ctx.args[2]), [("over", split, None)])
    return f"{atom(ctx.args[0])}.gather({ctx.call.dim(1)}, {ctx.args[2]})"


memory(
    "gather", ("aten.gather.default",), "b* v, b* i -> b* i", _gather, _emit_gather,
    Sample((T((4, 7)), 1, T((4, 6), "index 7"))), Sample((T((8, 6)), 0, T((4, 3), "index 8"))),
    Sample((T((6, 4, 2), "index 9"), 1, T((6, 4, 2), "index 4"))), saves="inputs",
)  # fmt: skip


def _take_along(call: Call) -> Rule:
    """A gather whose operands are broadcast to each other beside the dim, which is whole."""
    x, index = call.operands
    if call.arg(2, "dim") is None or len(x.shape) != len(index.shape):
        raise ValueError("the flattened tensor, or operands with different numbers of dims")
    dim = call.dim(2)
    names, shape = named(x.shape), call.results[0].shape
    table = tuple(("v",) if i == dim else names[i] if n == shape[i] else () for i, n in enumerate(x.shape))
    return with_linear(lettered(call, [table, aligned(index.shape, names, shape)], [names], "v"), {0})


def _emit_take_along(ctx: EmitContext) -> str:
    return invoke(f"{atom(ctx.args[0])}.take_along_dim", (ctx.args[1], ctx.pick(2, "dim")))


def _take(call: Call) -> Rule:
    """y[i] = x[index[i]] of the flattened x, which is whole."""
    table, rows = named(call.operands[0].shape), named(call.operands[1].shape, prefix="i")
    return with_linear(lettered(call, [table, rows], [rows], (name for (name,) in table)), {0})


memory(
    "take_along_dim", ("aten.take_along_dim.default",), "b* [v], b* i -> b* i", _take_along, _emit_take_along,
    Sample((T((4, 7)), T((4, 6), "index 7"), 1)), Sample((T((4, 7)), T((1, 6), "index 7"), 1)), saves="inputs",
)  # fmt: skip
memory(
    "take", ("aten.take.default",), "[d]*, i* -> i*", _take, method("take", operands=2), Sample((T((3, 4)), T((4, 6), "index 12"))),
    saves="inputs",
)  # fmt: skip


def _adds(call: Call) -> bool:
    """Whether rows are added to what is there, instead of written over it."""
    name = call.function
    return name == "scatter_add" or call.arg(4, "reduce") in _ADDING


def _scatter(call: Call) -> Rule:
    """x with the rows of a source, or one value, at the index along `dim`."""
    target = call.node.target
    reduce = call.arg(4, "reduce")
    dim, table, rows, whole = _along(call)
    value = not isinstance(call.node.args[3], Ref)
    if not value and call.operands[2].shape != call.operands[1].shape:
        raise ValueError("a source of another shape than its index, of which torch knows no gradient")
    sums = _adds(call) and dict(call.node.kwargs).get("include_self", True) is True
    sums = sums and not value and all(floating(result) for result in call.results)
    if not sums:
        whole |= {f"i{dim}"}
    rule = replace(
        lettered(call, [table, rows, rows][: 2 if value else 3], [table], whole), addends=frozenset({0} if sums else ())
    )
    scaled = "reduce" in target and not sums
    zero = value and call.node.args[3] == 0
    groups = [{0}] if zero and not reduce else [{0, 2}] if not value and not scaled else []
    return by_place(with_linear(rule, *groups) if floating(call.operands[0]) else rule, [f"d{dim}"])


def _emit_scatter(ctx: EmitContext) -> str:
    """``x.scatter(1, index, src)`` under the name of the target; the rows of x may be split."""
    name = ctx.call.function
    reduce: list[tuple[str, object, object]] = [("reduce", ctx.pick(4, "reduce"), None)]
    reduce += [("include_self", ctx.kwargs.get("include_self", True), True)] if name == "scatter_reduce" else []
    split = ctx.place(f"d{ctx.call.dim(1)}")
    arguments = (ctx.call.dim(1), ctx.args[2], ctx.args[3])
    if split:
        reduce[0] = ("reduce", "sum" if name == "scatter_add" else ctx.pick(4, "reduce"), None)
        return invoke("scatter_along", (ctx.args[0], *arguments), [*reduce, ("over", split, None)])
    return invoke(f"{atom(ctx.args[0])}.{name}", arguments, reduce)


memory(
    "scatter",
    ("aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter_add.default",
     "aten.scatter_reduce.two"),
    "b* v, b* i, b* i -> b* v", _scatter, _emit_scatter,
    Sample((T((4, 6)), 1, T((4, 5), "distinct 6"), T((4, 5)))),
    Sample((T((4, 6)), 1, T((4, 3), "index 6"), 1.5), target="aten.scatter.value"),
    Sample((T((4, 6)), 1, T((4, 3), "index 6"), 0), target="aten.scatter.value"),
    Sample((T((4, 6), "constant"), 1, T((4, 5), "distinct 6"), T((4, 5), "constant")), (("reduce", "add"),), "aten.scatter.reduce"),
    Sample((T((4, 6)), 1, T((4, 8), "index 6"), T((4, 8))), target="aten.scatter_add.default"),
    Sample((T((6, 4)), 0, T((8, 4), "index 6"), T((8, 4))), target="aten.scatter_add.default"),
    Sample((T((4, 6)), 1, T((4, 8), "index 6"), T((4, 8)), "sum"), target="aten.scatter_reduce.two"),
    Sample((T((4, 6)), 1, T((4, 8), "index 6"), T((4, 8)), "amax"), target="aten.scatter_reduce.two"),
    Sample((T((4, 6)), 1, T((4, 8), "index 6"), T((4, 8)), "mean"), (("include_self", False),), "aten.scatter_reduce.two"),
    saves="inputs",
)  # fmt: skip


def _rows(call: Call) -> Rule:
    """x with rows of a source added (index_add) or written (index_copy) along a dim: ``a* v b*, i, a* i b*``."""
    x, dim, adds = call.operands[0], call.dim(1), "add" in call.node.target
    if not x.shape or len(call.operands[1].shape) != 1:
        raise ValueError("an index or a table without dims")
    table = named(x.shape)
    source = (*table[:dim], ("i",), *table[dim + 1 :])
    sums = adds and floating(x)
    operands = [table, (("i",),), source][: len(call.operands)]
    rule = lettered(call, operands, [table], "" if sums else "i")
    rule = replace(rule, addends=frozenset({0} if sums else ()))
    linear = floating(x) and len(operands) == 3
    zeroed = floating(x) and call.node.args[3] == 0
    return by_place(with_linear(rule, {0, 2}) if linear else with_linear(rule, {0}) if zeroed else rule, [f"d{dim}"])


def _emit_rows(ctx: EmitContext) -> str:
    name, dim = ctx.call.function, ctx.call.dim(1)
    alpha = ("alpha", ctx.kwargs.get("alpha", 1), 1)
    split = ctx.place(f"d{dim}")
    if split:
        return invoke("update_rows", (ctx.args[0], dim, ctx.args[2], ctx.args[3], name), [alpha, ("over", split, None)])
    return invoke(f"{atom(ctx.args[0])}.{name}", (dim, ctx.args[2], ctx.args[3]), [alpha])


memory(
    "index_add", ("aten.index_add.default", "aten.index_copy.default", "aten.index_fill.int_Scalar"),
    "a* v b*, i, a* i b* -> a* v b*", _rows, _emit_rows,
    Sample((T((2, 6, 3)), 1, T((4,), "index 6"), T((2, 4, 3)))),
    Sample((T((6, 4)), 0, T((8,), "index 6"), T((8, 4))), (("alpha", 0.5),)),
    Sample((T((6, 4)), 0, T((4,), "distinct 6"), T((4, 4))), target="aten.index_copy.default"),
    Sample((T((6, 4)), 0, T((4,), "index 6"), 0.0), target="aten.index_fill.int_Scalar"), saves="inputs",
)  # fmt: skip


def _index_put(call: Call) -> Rule:
    """``x[i, j] = values`` (added with `accumulate`): the counted rows of x are whole.

    One mask is a choice between x and one number: its dims are letters.
    """
    places = _places(call)
    x, values = call.operands[0], call.operands[-1]
    table = named(x.shape)
    accumulate = call.arg(3, "accumulate", False) is True
    if len(places) == 1 and call.operands[1].dtype == "bool" and values.numel == 1:
        dim = next(iter(places))
        mask = table[dim : dim + len(call.operands[1].shape)]
        rule = lettered(call, [table, mask, tuple(() for _ in values.shape)], [table])
        return with_linear(rule, {0, 2}) if floating(x) else rule
    letters, rows = _counted(call, places)
    kept, at = [n for dim, n in enumerate(x.shape) if dim not in places], _at(places)
    source = aligned(values.shape, _indexed(table, places, rows), (*kept[:at], *rows, *kept[at:]))
    sums = accumulate and floating(x)
    frozen = {f"d{dim}" for dim in places} | (set() if sums else {f"i{i}" for i in range(len(rows))})
    operands = (table, *(letters[i] for i in places.values()), source)
    rule = replace(lettered(call, operands, [table], frozen), addends=frozenset({0} if sums else ()))
    return with_linear(rule, {0, len(operands) - 1}) if floating(x) else rule


def _emit_index_put(ctx: EmitContext) -> str:
    accumulate = [("accumulate", ctx.pick(3, "accumulate", False), False)]
    if all(place is not None for place in ctx.args[1]):
        return invoke(f"{atom(ctx.args[0])}.index_put", (ctx.args[1], ctx.args[2]), accumulate)
    return invoke("torch.ops.aten.index_put", ctx.args[:3], accumulate)


memory(
    "index_put", ("aten.index_put.default", "aten._unsafe_index_put.default"), "a* [v] b*, i*, a* i* b* -> a* v b*",
    _index_put, _emit_index_put,
    Sample((T((6, 4)), (T((5,), "distinct 6"),), T((5, 4)))),
    Sample((T((6, 4)), (T((8,), "index 6"),), T((8, 4)), True)),
    Sample((T((2, 6, 4)), (None, T((8,), "index 6")), T((8, 1)), True)),
    Sample((T((5, 4, 3)), (T((6,), "index 5"), None, T((6,), "index 3")), T(()), True)),
    Sample((T((4, 6)), (T((4,), "bool"),), T(()))), Sample((T((4, 6)), (T((4, 6), "bool"),), T((1,), "constant"))),
    Sample((T((6,), "index 9"), (T((6,), "distinct 6"),), T((6,), "index 9"))), saves="inputs",
)  # fmt: skip


def _masked_scatter(call: Call) -> Rule:
    """The n-th true place takes the n-th number of the source: everything depends on everything before it."""
    rule = broadcast(replace(call, operands=call.operands[:2]))
    source = named(call.operands[2].shape, prefix="s")
    letters = {*rule.extents, *(name for (name,) in source)}
    whole = lettered(call, (*rule.operands, source), rule.results, letters)
    return with_linear(whole, {0, 2}) if floating(call.operands[0]) else whole


memory(
    "masked_scatter", ("aten.masked_scatter.default",), "[d]*, [d]*, [s]* -> [d]*", _masked_scatter,
    method("masked_scatter", operands=3), Sample((T((4, 6)), T((6,), "bool"), T((4, 6)))), saves="inputs",
)  # fmt: skip
