"""Reductions over dims. A sum is partial where a summed letter is split; others have their result on every rank.

sum    y[b] = sum_d x[b, d]               a mean is this rank's sum over the count of all rows
amax   y[b] = max_d x[b, d]               the distributed form (`autopar.runtime.amax`, `var`, `norm` ...) sums, or
                                          compares, over the axes that split d, and y is whole on all of them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autopar.ops.record.dim_letters import lettered, named
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.op import Inner, Op, Sample, T, per_element, register
from autopar.ops.record.printing import atom, invoke, tuple_text
from autopar.ops.record.rule import Call, Rule, floating, normal_dims, with_linear
from autopar.ops.record.windows import by_place

_X = T((4, 6))


def _dims(call: Call, position: int) -> tuple[int, ...]:
    """The dims that are reduced: all of them where none is named."""
    ndim = len(call.operands[0].shape)
    dims = call.arg(position, "dim")
    return tuple(sorted(normal_dims(None if dims == () else dims, ndim)))


def _reduced(call: Call, gone: Sequence[int]) -> Rule:
    """One letter per dim; in the results the dims `gone` are missing, or of extent 1."""
    names = named(call.operands[0].shape)
    kept = tuple(name for i, name in enumerate(names) if i not in gone)
    held = named(call.operands[0].shape, dict.fromkeys(gone, ""))
    return lettered(call, [names], [held if len(value.shape) == len(names) else kept for value in call.results])


def _keepdim(call: Call) -> bool:
    read = next(value for value in call.results if value.name)
    return bool(call.operands[0].shape) and len(read.shape) == len(call.operands[0].shape)


def _sum(call: Call) -> Rule:
    """Partial sums of floating numbers; integers are summed over the axes, so that nobody adds up what is no sum."""
    rule = _reduced(call, _dims(call, 1))
    if any(floating(value) for value in call.results):
        return with_linear(rule, {0}) if floating(call.operands[0]) else rule
    return replace(rule, whole={f"d{dim}": frozenset({0}) for dim in _dims(call, 1)})


def _summed_axes(ctx: EmitContext, position: int) -> tuple[str, ...]:
    return ctx.axes(*(f"d{dim}" for dim in _dims(ctx.call, position)))


def _all_summed(text: str, axes: Sequence[str]) -> str:
    """``all_sum(all_sum(text, DATA), MODEL)``."""
    for axis in axes:
        text = f"all_sum({text}, {axis})"
    return text


def _arguments(call: Call, position: int) -> str:
    """``1, keepdim=True``, or nothing for all dims."""
    gone, ndim = _dims(call, position), len(call.operands[0].shape)
    dims = () if len(gone) == ndim and not _keepdim(call) else (_alone(gone),)
    return invoke("", dims, [("keepdim", _keepdim(call), False)])


def _alone(dims: tuple[int, ...]) -> object:
    """Dims as torch is told them: an only one as a number."""
    return dims[0] if len(dims) == 1 else dims


def _emit_method(ctx: EmitContext) -> str:
    """``x.prod(1, keepdim=True)``."""
    return f"{atom(ctx.args[0])}.{ctx.call.function}{_arguments(ctx.call, 1)}"


def _emit_sum(ctx: EmitContext) -> str:
    return _all_summed(_emit_method(ctx), () if floating(ctx.call.results[0]) else _summed_axes(ctx, 1))


def _emit_mean(ctx: EmitContext) -> str:
    """Where a summed letter is split: this rank's sum over the number of all rows."""
    if not _summed_axes(ctx, 1):
        return _emit_method(ctx)
    count = math.prod(ctx.call.operands[0].shape[dim] for dim in _dims(ctx.call, 1))
    return f"{atom(ctx.args[0])}.sum{_arguments(ctx.call, 1)} / {count}"


def _plain_dtype(rule: Callable[[Call], Rule]) -> Callable[[Call], Rule]:
    """Refuse a call that asks for another dtype than its result has anyway."""

    def checked(call: Call) -> Rule:
        if call.results[0].dtype != (call.operands[0].dtype if floating(call.operands[0]) else "int64"):
            raise ValueError("a sum in another dtype")
        return rule(call)

    return checked


def _reduce(
    name: str,
    targets: tuple[str, ...],
    note: str,
    rule: Callable[[Call], Rule],
    emit: Emit,
    saves: str,
    *samples: Sample,
    sums: int = 0,
) -> None:
    """`sums` says how many messages as large as the result a split of a summed letter takes."""

    def inner(call: Call, rule: Rule, letter: str) -> tuple[Inner, ...]:
        size = float(next(value for value in call.results if value.name).nbytes)
        kept = tuple(dict.fromkeys(name for dims in rule.results for names in dims for name in names))
        return (Inner("all_sum", size, 0.0, kept),) * sums if letter in rule.whole else ()

    register(
        Op(
            name,
            targets,
            note,
            rule,
            emit,
            work="reduce",
            flops=per_element(1),
            saves=saves,
            inner=inner,
            samples=samples,
        )
    )


_reduce(
    "sum", ("aten.sum.dim_IntList", "aten.sum.default"), "a d b -> a b", _plain_dtype(_sum), _emit_sum, "",
    Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)), Sample((_X,), target="aten.sum.default"),
    Sample((T((4, 6), "bool"), (1,))),
)  # fmt: skip
_reduce(
    "mean", ("aten.mean.dim", "aten.mean.default"), "a d b -> a b", _plain_dtype(_sum), _emit_mean, "",
    Sample((_X, (1,))), Sample((T((2, 4, 3)), (-1, -2), True)), Sample((_X,), target="aten.mean.default"),
)  # fmt: skip


def _whole_dims(call: Call) -> Rule:
    """The dims that are reduced may not be split."""
    gone = _dims(call, 1)
    return replace(_reduced(call, gone), frozen=frozenset(f"d{dim}" for dim in gone))


def _over_dims(call: Call, position: int = 1) -> Rule:
    """The dims may be split: the results are whole on every rank."""
    gone, every = _dims(call, position), frozenset(range(len(call.results)))
    return replace(_reduced(call, gone), whole={f"d{dim}": every for dim in gone})


def _some_dims(rule: Callable[[Call], Rule]) -> Callable[[Call], Rule]:
    """Refuse a call of no dims at all: some forms take that to be none, others to be all, and torch's gradients differ."""

    def checked(call: Call) -> Rule:
        if not call.node.target.endswith(".default") and call.arg(1, "dim") == ():
            raise ValueError("no dims")
        return rule(call)

    return checked


def _emit_over(ctx: EmitContext) -> str:
    """``x.amax(1)``, or ``amax(x, 1, over=(DATA,))`` where a reduced dim is split."""
    axes, name = _summed_axes(ctx, 1), ctx.call.function
    dims, keepdim = _alone(_dims(ctx.call, 1)), ("keepdim", _keepdim(ctx.call), False)
    if axes:
        return invoke(name, (ctx.args[0], dims), [keepdim, ("over", tuple_text(axes), None)])
    if name == "logsumexp":  # which has to be told its dims
        return invoke(f"{atom(ctx.args[0])}.{name}", (dims,), [keepdim])
    return _emit_method(ctx)


for _name in ("amax", "amin"):
    _reduce(
        _name, (f"aten.{_name}.default",), "a d b -> a b", _over_dims, _emit_over, "inputs",
        Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)), Sample((_X,)), Sample((T((4, 6), "index 3"), (1,))),
        sums=2,
    )  # fmt: skip
_reduce(
    "logsumexp", ("aten.logsumexp.default",), "a d b -> a b", _over_dims, _emit_over,
    "inputs", Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)), sums=2,
)  # fmt: skip


def _placed(call: Call) -> Rule:
    """The extreme of one dim and where it is; without a dim, of all."""
    if call.arg(1, "dim") is None:
        rule = _over_dims(call)
        return replace(rule, frozen=frozenset(rule.extents)) if "arg" in call.node.target else rule
    return by_place(_over_dims(call), [f"d{dim}" for dim in _dims(call, 1)])


def _emit_placed(name: str, split: str, whole: str) -> Emit:
    """``x.max(1)``, or ``largest(x, 1, over=(MODEL, 50))``; of all elements ``largest_of_all(x, over=(MODEL,))``."""

    def emit(ctx: EmitContext) -> str:
        axes, gone = _summed_axes(ctx, 1), _dims(ctx.call, 1)
        keepdim = ("keepdim", _keepdim(ctx.call), False)
        if ctx.call.arg(1, "dim") is None:
            plain = invoke(f"{atom(ctx.args[0])}.{name}", (), [keepdim])
            return invoke(whole, (ctx.args[0],), [("over", tuple_text(axes), None)]) if axes else plain
        if not axes:
            return _emit_method(ctx)
        text = invoke(split, (ctx.args[0], gone[0]), [keepdim, ("over", ctx.place(f"d{gone[0]}"), None)])
        return f"{text}[1]" if name.startswith("arg") else text

    return emit


for _name, _split, _all in (("max", "largest", "largest_of_all"), ("min", "smallest", "smallest_of_all")):
    _reduce(
        _name, (f"aten.{_name}.dim", f"aten.{_name}.default"), "a d b -> a b, a b", _placed,
        _emit_placed(_name, _split, _all), "inputs",
        Sample((_X, 1)), Sample((T((3, 4)), 0, True)), Sample((_X,), target=f"aten.{_name}.default"),
        Sample((T((4, 6), "index 3"), 1)), sums=2,
    )  # fmt: skip
    _reduce(
        f"arg{_name}", (f"aten.arg{_name}.default",), "a d b -> a b", _placed,
        _emit_placed(f"arg{_name}", _split, _all), "",
        Sample((_X, 1)), Sample((_X, 0, True)), Sample((_X,)), Sample((T((4, 6), "index 3"), 1)), sums=2,
    )  # fmt: skip


def _emit_any(ctx: EmitContext) -> str:
    """A sum of booleans is whether any is true; all are true where none is false."""
    axes, text = _summed_axes(ctx, 1), _emit_method(ctx)
    return f"~{_all_summed(f'~{text}', axes)}" if axes and ctx.call.function == "all" else _all_summed(text, axes)


for _name in ("any", "all"):
    _reduce(
        _name, (f"aten.{_name}.dim", f"aten.{_name}.default", f"aten.{_name}.dims"), "a d b -> a b",
        _some_dims(_over_dims), _emit_any, "",
        Sample((T((4, 6), "bool"), 1)), Sample((T((4, 6), "bool"),), target=f"aten.{_name}.default"), sums=1,
    )  # fmt: skip
_reduce(
    "prod", ("aten.prod.dim_int", "aten.prod.default"), "a [d] b -> a b", _plain_dtype(_whole_dims), _emit_method,
    "inputs", Sample((_X, 1)), Sample((_X,), target="aten.prod.default"),
)  # fmt: skip
_reduce(
    "nanmean", ("aten.nanmean.default",), "a [d] b -> a b", _plain_dtype(_whole_dims), _emit_method,
    "inputs", Sample((_X, (1,))),
)  # fmt: skip
_reduce(
    "nansum", ("aten.nansum.default",), "a d b -> a b", _plain_dtype(lambda call: _reduced(call, _dims(call, 1))),
    _emit_method, "inputs", Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)),
)  # fmt: skip


def _emit_spread(name: str) -> Emit:
    """``x.var(1, correction=0)``, or the function of the runtime where a reduced dim is split."""

    def emit(ctx: EmitContext) -> str:
        place = _dims_place(ctx.call)
        dims, axes = _alone(_dims(ctx.call, place)), _summed_axes(ctx, place)
        correction = ctx.kwargs.get("correction", 1)
        if ctx.call.node.target.endswith((".dim", ".default")):
            at = 2 if ctx.call.node.target.endswith(".dim") else 1
            correction = int(bool(ctx.pick(at, "unbiased", True)))
        rest = [("correction", correction, 1), ("keepdim", _keepdim(ctx.call), False)]
        if axes:
            return invoke(name, (ctx.args[0], dims), [*rest, ("over", tuple_text(axes), None)])
        return invoke(f"{atom(ctx.args[0])}.{name}", (dims,), rest)

    return emit


def _dims_place(call: Call) -> int:
    """Where dims are given: the form without them has `unbiased` there."""
    return 9 if call.node.target.endswith(".default") else 1


for _name in ("var", "std"):
    _reduce(
        _name, (f"aten.{_name}.correction", f"aten.{_name}.dim", f"aten.{_name}.default"), "a d b -> a b",
        _some_dims(lambda call: _over_dims(call, _dims_place(call))),
        _emit_spread(_name),
        "inputs", Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2)), (("correction", 0), ("keepdim", True))),
        Sample((_X, (1,), False, True), target=f"aten.{_name}.dim"), sums=2,
    )  # fmt: skip


def _norm(call: Call) -> Rule:
    if call.results[0].dtype not in (call.operands[0].dtype, call.operands[0].dtype.replace("complex128", "float64")):
        raise ValueError("a norm in another dtype")
    return _over_dims(call, 2)


def _emit_norm(ctx: EmitContext) -> str:
    axes, dims = _summed_axes(ctx, 2), _alone(_dims(ctx.call, 2))
    rest = [("ord", ctx.pick(1, "ord", 2), 2), ("dim", dims, None), ("keepdim", _keepdim(ctx.call), False)]
    if axes:
        return invoke("norm", (ctx.args[0],), [*rest, ("over", tuple_text(axes), None)])
    return invoke("torch.linalg.vector_norm", (ctx.args[0],), rest)


_reduce(
    "norm", ("aten.linalg_vector_norm.default",), "a d b -> a b", _norm, _emit_norm, "inputs",
    Sample((_X,)), Sample((_X, 2, (1,), True)), Sample((T((2, 4, 3)), 1, (0, 2))),
    Sample((_X, float("inf"), (1,))), Sample((T((4, 6), "complex"), 2, (1,))),
    *(Sample((_X, order, (1,))) for order in (0, 0.5, 1.5, 3, -1, float("-inf"))), sums=1,
)  # fmt: skip


def _counted(call: Call) -> Rule:
    """Counts are summed over the axes. Raises ValueError where the largest element says what the bins are."""
    low, high = call.arg(2, "min", 0), call.arg(3, "max", 0)
    if "histc" in call.node.target and low == high:
        raise ValueError("bins between the smallest and the largest element")
    if "histc" not in call.node.target:
        return _over_dims(call)
    names = named(call.operands[0].shape)
    rule = lettered(call, [names], [(("v",),)], "v")
    return replace(rule, whole={name: frozenset({0}) for (name,) in names})


def _emit_counted(ctx: EmitContext) -> str:
    name = ctx.call.function
    arguments = ctx.args if name == "histc" else (ctx.args[0], *((_dims(ctx.call, 1),) if len(ctx.args) > 1 else ()))
    return _all_summed(invoke(f"torch.{name}", arguments), ctx.axes(*ctx.rule.whole))


_reduce(
    "count", ("aten.histc.default", "aten.count_nonzero.default", "aten.count_nonzero.dim_IntList"), "d* -> [v]",
    _counted, _emit_counted, "",
    Sample((T((24,), "constant"), 4, -1, 1)), Sample((T((4, 6), "bool"),), target="aten.count_nonzero.default"),
    Sample((T((4, 6), "index 3"), (1,)), target="aten.count_nonzero.dim_IntList"), sums=1,
)  # fmt: skip


def _emit_pair(ctx: EmitContext) -> str:
    """``torch.var_mean(x, 1, correction=0)``."""
    name, dims = ctx.call.function, _alone(_dims(ctx.call, 1))
    keepdim = ("keepdim", _keepdim(ctx.call), False)
    if name == "aminmax":
        return invoke("torch.aminmax", (ctx.args[0],), [("dim", ctx.kwargs.get("dim"), None), keepdim])
    correction = ctx.kwargs.get("correction", 1)
    if ctx.call.node.target.endswith(".dim"):
        correction = int(bool(ctx.pick(2, "unbiased", True)))
    return invoke(f"torch.{name}", (ctx.args[0], dims), [("correction", correction, 1), keepdim])


for _name in ("var_mean", "std_mean"):
    _reduce(
        _name, (f"aten.{_name}.correction", f"aten.{_name}.dim"), "a [d] b -> a b, a b",
        _some_dims(_whole_dims), _emit_pair,
        "inputs", Sample((_X, (1,))), Sample((_X, (0,), False, True), target=f"aten.{_name}.dim"),
    )  # fmt: skip
_reduce(
    "aminmax", ("aten.aminmax.default",), "a [d] b -> a b, a b", _whole_dims, _emit_pair, "inputs",
    Sample((_X,), (("dim", 1),)), Sample((_X,), (("dim", 0), ("keepdim", True))),
)  # fmt: skip
