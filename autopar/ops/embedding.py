"""Look-ups of rows by index: the rows' own dim is whole, the table's other dims and those of the indices are free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopar.graph import Ref
from autopar.ops.op import Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, letters, with_linear
from autopar.ops.text import atom, invoke, literal, normal_dim, pick


def _embedding(call: Call) -> Rule:
    """y[b, d] = w[i[b], d]; linear in the table."""
    if call.arg(3, "scale_grad_by_freq", False) or call.arg(4, "sparse", False):
        raise ValueError("gradients that count, or are sparse")
    return with_linear(letters("[v] d, b* -> b* d", call), {0})


def _emit_embedding(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    padding = pick(args, kwargs, 2, "padding_idx", -1)
    return invoke("F.embedding", (args[1], args[0]), [("padding_idx", None if padding < 0 else padding, None)])


register(
    Op(
        name="embedding",
        targets=("aten.embedding.default",),
        note="[v] d, b* -> b* d",
        rule=_embedding,
        emit=_emit_embedding,
        work="memory",
        saves="inputs",
        samples=(Sample((T((7, 4)), T((3, 4), "index 7"))), Sample((T((7, 6)), T((4,), "index 7"), 2))),
    )
)


def _lookup(call: Call, dim: int, index: int) -> Rule:
    """Rows along `dim` of operand 0 by operand `index` (of any number of dims, which take the place of `dim`)."""
    shape, rows = call.operands[0].shape, call.operands[index].shape
    table: Dims = tuple((f"d{i}",) for i in range(len(shape)))
    taken: Dims = tuple((f"i{i}",) for i in range(len(rows)))
    extents = {f"d{i}": n for i, n in enumerate(shape)} | {f"i{i}": n for i, n in enumerate(rows)}
    after = (*table[:dim], *taken, *table[dim + 1 :])
    return with_linear(Rule((table, taken), (after,), extents, frozenset({f"d{dim}"})), {0})


def _index_select(call: Call) -> Rule:
    return _lookup(call, normal_dim(call.arg(1, "dim"), len(call.operands[0].shape)), 1)


def _emit_index_select(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])}.index_select({args[1]}, {args[2]})"


register(
    Op(
        name="index_select",
        targets=("aten.index_select.default",),
        note="a* [v] b*, i -> a* i b*",
        rule=_index_select,
        emit=_emit_index_select,
        work="memory",
        samples=(Sample((T((2, 7, 4)), 1, T((6,), "index 7"))),),
    )
)


def _index(call: Call) -> Rule:
    """``x[:, i]`` with one tensor of integers. Raises ValueError for several, and for masks."""
    places = call.node.args[1]
    assert isinstance(places, tuple)
    given = [dim for dim, place in enumerate(places) if isinstance(place, Ref)]
    if len(given) != 1 or call.operands[1].dtype == "bool":
        raise ValueError("several index tensors, or a mask")
    return _lookup(call, given[0], 1)


def _emit_index(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    inner = ", ".join(":" if place is None else literal(place) for place in args[1])
    return f"{atom(args[0])}[{inner}]"


register(
    Op(
        name="index",
        targets=("aten.index.Tensor",),
        note="a* [v] b*, i* -> a* i* b*",
        rule=_index,
        emit=_emit_index,
        work="memory",
        samples=(
            Sample((T((2, 7, 4)), (None, T((2, 6), "index 7")))),
            Sample((T((7, 4)), (T((6,), "index 7"),))),
        ),
    )
)


def _gather(call: Call) -> Rule:
    """y[b, i] = x[b, index[b, i]]: dims beside `dim` are shared where both have the same extent, else whole."""
    x, index = call.operands
    dim = normal_dim(call.arg(1, "dim"), len(x.shape))
    alike = [i != dim and n == m for i, (n, m) in enumerate(zip(x.shape, index.shape, strict=True))]
    table: Dims = tuple((f"d{i}",) if same else (f"x{i}",) for i, same in enumerate(alike))
    rows: Dims = tuple((f"d{i}",) if same else (f"i{i}",) for i, same in enumerate(alike))
    extents = {name: n for (name,), n in zip((*table, *rows), (*x.shape, *index.shape), strict=True)}
    frozen = {name for (name,) in table if name[0] == "x"}
    frozen |= {f"i{i}" for i, same in enumerate(alike) if not same and i != dim}
    return with_linear(Rule((table, rows), (rows,), extents, frozenset(frozen)), {0})


def _emit_gather(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])}.gather({args[1]}, {args[2]})"


register(
    Op(
        name="gather",
        targets=("aten.gather.default",),
        note="b* [v], b* i -> b* i",
        rule=_gather,
        emit=_emit_gather,
        work="memory",
        samples=(
            Sample((T((4, 7)), 1, T((4, 6), "index 7"))),
            Sample((T((7, 6)), 0, T((4, 3), "index 7"))),
        ),
    )
)
