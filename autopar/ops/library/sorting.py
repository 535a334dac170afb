"""Orders along one dim: sort, top-k, median and their kin. That dim is whole, all others are letters."""

from __future__ import annotations

from dataclasses import replace

from autopar.ir.graph import Ref
from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.printing import atom, invoke
from autopar.ops.record.rule import Call, Rule

_X = T((4, 6))

# Record, position of the dim, its default, how many arguments are printed before it, options, what autograd keeps.
_Options = tuple[tuple[int, str, object], ...]
_TABLE: tuple[tuple[str, tuple[str, ...], int, int, _Options, str, tuple[tuple[object, ...], ...]], ...] = (
    ("sort", ("default",), 1, -1, ((2, "descending", False),), "output", ((_X, 1, True), (_X, 0))),
    ("argsort", ("default",), 1, -1, ((2, "descending", False),), "", ((_X, 1),)),
    ("topk", ("default",), 2, -1, ((3, "largest", True), (4, "sorted", True)), "output", ((_X, 2, 1), (_X, 3, 0))),
    ("kthvalue", ("default",), 2, -1, ((3, "keepdim", False),), "output", ((_X, 2, 1), (_X, 2, 0, True))),
    ("median", ("dim",), 1, -1, ((2, "keepdim", False),), "output", ((_X, 1), (_X, 0, True))),
    ("mode", ("default",), 1, -1, ((2, "keepdim", False),), "output", ((_X, 1),)),
    ("cummax", ("default",), 1, -1, (), "output", ((_X, 1),)),
    ("cummin", ("default",), 1, -1, (), "output", ((_X, 1),)),
)


def along(call: Call, at: int, default: int = -1) -> Rule:
    """The same letters on both sides, the dim at argument `at` whole; it may change its extent, or go away."""
    shape, dim = call.operands[0].shape, call.dim(at, default)
    kept = any(value.name and len(value.shape) == len(shape) for value in call.results)
    after = tuple(names for i, names in enumerate(named(shape, {dim: "y"})) if kept or i != dim)
    return lettered(call, [named(shape)], [after] * len(call.results), {f"d{dim}", "y"})


def emit_along(name: str, at: int, default: int, table: _Options) -> Emit:
    """``x.topk(2, 1, largest=False)``."""

    def emit(ctx: EmitContext) -> str:
        dim = ctx.pick(at, "dim", default)
        rest = [(option, ctx.pick(place, option, value), value) for place, option, value in table]
        return invoke(f"{atom(ctx.args[0])}.{name}", (*ctx.args[1:at], dim), rest)

    return emit


for _name, _overloads, _at, _default, _options, _saves, _calls in _TABLE:
    register(
        Op(
            _name, tuple(f"aten.{_name}.{overload}" for overload in _overloads), "a [d] b -> a d b",
            lambda call, at=_at: along(call, at), emit_along(_name, _at, _default, _options),  # type: ignore[misc]
            work="reduce", saves=_saves, samples=tuple(Sample(args) for args in _calls),
        )
    )  # fmt: skip


def _emit_stable(ctx: EmitContext) -> str:
    """``x.sort(1, stable=True)``."""
    stable = ctx.kwargs.get("stable", ctx.args[1] if len(ctx.args) > 1 else True)
    rest = [("descending", ctx.pick(3, "descending", False), False), ("stable", stable, None)]
    return invoke(f"{atom(ctx.args[0])}.{ctx.call.function}", (), [("dim", ctx.pick(2, "dim", -1), -1), *rest])


for _name in ("sort", "argsort"):
    register(
        Op(
            f"stable_{_name}", (f"aten.{_name}.stable",), "a [d] b -> a d b",
            (lambda call: along(call, 1)), _emit_stable, work="reduce", saves="output" if _name == "sort" else "",
            samples=(Sample((_X,), (("dim", 1), ("stable", True))),),
        )
    )  # fmt: skip


def _quantile(call: Call) -> Rule:
    """One quantile along one dim."""
    if not isinstance(call.node.args[1], float) or call.arg(2, "dim") is None:
        raise ValueError("several quantiles, or of the flattened tensor")
    rule = along(call, 2)
    return replace(rule, filled=frozenset(rule.letters))  # torch refuses a tensor without elements


def _emit_quantile(ctx: EmitContext) -> str:
    keepdim = ("keepdim", ctx.pick(3, "keepdim", False), False)
    method = ("interpolation", ctx.kwargs.get("interpolation", "linear"), "linear")
    return invoke(f"{atom(ctx.args[0])}.quantile", ctx.args[1:3], [keepdim, method])


register(
    Op(
        "quantile", ("aten.quantile.scalar",), "a [d] b -> a b", _quantile, _emit_quantile, work="reduce",
        samples=(Sample((_X, 0.5, 1)), Sample((_X, 0.25, 0, True))),
    )
)  # fmt: skip


def _search(call: Call) -> Rule:
    """Where values stand among sorted boundaries: these are whole, values are free; batches of both are letters."""
    bounds, values = call.operands if "searchsorted" in call.node.target else call.operands[::-1]
    names, edges = named(values.shape), named(bounds.shape, {len(bounds.shape) - 1: "v"})
    operands = (edges, names) if "searchsorted" in call.node.target else (names, edges)
    return lettered(call, operands, [names], "v")


def _emit_search(ctx: EmitContext) -> str:
    name = ctx.call.function
    if any(isinstance(value, Ref) for _, value in ctx.call.node.kwargs):
        raise ValueError("an order of the boundaries")
    rest = [("right", ctx.kwargs.get("right", ctx.args[3] if len(ctx.args) > 3 else False), False)]
    return invoke(f"torch.{name}", ctx.args[:2], [*rest, ("out_int32", ctx.kwargs.get("out_int32", False), False)])


for _name in ("searchsorted", "bucketize"):
    _edges, _values = T((5,), "constant"), T((4, 6), "constant")
    _given = (_edges, _values) if _name == "searchsorted" else (_values, _edges)
    register(
        Op(
            _name, (f"aten.{_name}.Tensor",), "[v], d* -> d*", _search, _emit_search, work="reduce", saves="",
            samples=(Sample(_given),),
        )
    )  # fmt: skip
