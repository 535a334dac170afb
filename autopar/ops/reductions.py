"""Reductions over dims. A sum is partial where a summed letter is split; other reductions need their dims whole.

sum   y[b] = sum_d x[b, d]                  a mean is this rank's sum over the count of all rows
amax  y[b] = max_d x[b, d], d frozen        also scans, sorts and everything else along one dim
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autopar.ops.op import Emit, Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, floating, with_linear
from autopar.ops.text import atom, invoke, literal, normal_dim, pick
from autopar.ops.window import collapse

_X = T((4, 6))


def _dims(call: Call, position: int) -> tuple[int, ...]:
    """The dims that are reduced: all of them where none is named."""
    ndim = len(call.operands[0].shape)
    given = call.arg(position, "dim")
    if given is None or given == ():
        return tuple(range(ndim))
    return tuple(sorted(normal_dim(dim, ndim) for dim in (given if isinstance(given, tuple) else (given,))))


def _reduced(call: Call, gone: Sequence[int]) -> Rule:
    """One letter per dim; in the results the dims `gone` are missing, or of extent 1."""
    shape = call.operands[0].shape
    names: Dims = tuple((f"d{i}",) for i in range(len(shape)))
    kept = tuple(name for i, name in enumerate(names) if i not in gone)
    held = tuple(() if i in gone else name for i, name in enumerate(names))
    results = []
    for value in call.results:
        results.append(() if not value.name else held if len(value.shape) == len(shape) else kept)
    return Rule((names,), tuple(results), {f"d{i}": n for i, n in enumerate(shape)})


def _keepdim(call: Call) -> bool:
    read = next(value for value in call.results if value.name)
    return bool(call.operands[0].shape) and len(read.shape) == len(call.operands[0].shape)


def _sum(call: Call) -> Rule:
    rule = _reduced(call, _dims(call, 1))
    return with_linear(rule, {0}) if floating(call.operands[0]) else rule


def _arguments(call: Call, position: int) -> str:
    """``1, keepdim=True``, or nothing for all dims."""
    gone, ndim = _dims(call, position), len(call.operands[0].shape)
    dims: tuple[object, ...] = (
        () if len(gone) == ndim and not _keepdim(call) else (gone[0] if len(gone) == 1 else gone,)
    )
    return invoke("", dims, [("keepdim", _keepdim(call), False)])


def _emit_sum(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])}.sum{_arguments(call, 1)}"


def _emit_mean(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Where a summed letter is split: this rank's sum over the number of all rows."""
    gone = _dims(call, 1)
    if not local.axes(tuple(f"d{dim}" for dim in gone)):
        return f"{atom(args[0])}.mean{_arguments(call, 1)}"
    count = math.prod(call.operands[0].shape[dim] for dim in gone)
    return f"{atom(args[0])}.sum{_arguments(call, 1)} / {count}"


def _plain_dtype(rule: Callable[[Call], Rule]) -> Callable[[Call], Rule]:
    """Refuse a call that asks for another dtype than its result has anyway."""

    def checked(call: Call) -> Rule:
        if floating(call.operands[0]) and call.results[0].dtype != call.operands[0].dtype:
            raise ValueError("a sum in another dtype")
        return rule(call)

    return checked


def _flops(call: Call, rule: Rule) -> float:
    return float(call.operands[0].numel)


def _reduce(
    name: str,
    targets: tuple[str, ...],
    note: str,
    rule: Callable[[Call], Rule],
    emit: Emit,
    saves: str,
    *samples: Sample,
) -> None:
    register(Op(name, targets, note, rule, emit, work="reduce", flops=_flops, saves=saves, samples=samples))


_reduce(
    "sum", ("aten.sum.dim_IntList", "aten.sum.default"), "a d b -> a b", _plain_dtype(_sum), _emit_sum, "",
    Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)), Sample((_X,), target="aten.sum.default"),
    Sample((T((4, 6), "bool"), (1,))),
)  # fmt: skip
_reduce(
    "mean", ("aten.mean.dim", "aten.mean.default"), "a d b -> a b", _plain_dtype(_sum), _emit_mean, "",
    Sample((_X, (1,))), Sample((T((2, 4, 3)), (-1, -2), True)), Sample((_X,), target="aten.mean.default"),
)  # fmt: skip


def _whole_dims(position: int) -> Callable[[Call], Rule]:
    def rule(call: Call) -> Rule:
        gone = _dims(call, position)
        return replace(_reduced(call, gone), frozen=frozenset(f"d{dim}" for dim in gone))

    return rule


def _emit_method(name: str, position: int = 1) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        return f"{atom(args[0])}.{name}{_arguments(call, position)}"

    return emit


for _name in ("amax", "amin"):
    _reduce(
        _name, (f"aten.{_name}.default",), "a [d] b -> a b", _whole_dims(1), _emit_method(_name), "inputs",
        Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2), True)), Sample((_X,)),
    )  # fmt: skip
for _name in ("max", "min"):
    _reduce(
        _name, (f"aten.{_name}.dim", f"aten.{_name}.default"), "a [d] b -> a b, a b", _whole_dims(1),
        _emit_method(_name), "inputs",
        Sample((_X, 1)), Sample((T((3, 4)), 0, True)), Sample((_X,), target=f"aten.{_name}.default"),
    )  # fmt: skip
for _name in ("argmax", "argmin"):
    _reduce(
        _name, (f"aten.{_name}.default",), "a [d] b -> a b", _whole_dims(1), _emit_method(_name), "",
        Sample((_X, 1)), Sample((_X, 0, True)), Sample((_X,)),
    )  # fmt: skip
for _name in ("any", "all"):
    _reduce(
        _name, (f"aten.{_name}.dim", f"aten.{_name}.default"), "a [d] b -> a b", _whole_dims(1),
        _emit_method(_name), "",
        Sample((T((4, 6), "bool"), 1)), Sample((T((4, 6), "bool"),), target=f"aten.{_name}.default"),
    )  # fmt: skip
for _name, _method in (("prod.dim_int", "prod"), ("logsumexp.default", "logsumexp")):
    _reduce(
        _method, (f"aten.{_name}",), "a [d] b -> a b", _whole_dims(1), _emit_method(_method), "inputs",
        Sample((_X, 1 if _method == "prod" else (1,))),
    )  # fmt: skip


def _emit_var(name: str) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """``x.var(1, correction=0)``."""
        gone = _dims(call, 1)
        correction = kwargs.get("correction")
        if ".dim" in call.node.target:
            correction = int(bool(pick(args, kwargs, 2, "unbiased", True)))
        rest = [("correction", correction, 1 if correction != 0 else None), ("keepdim", _keepdim(call), False)]
        return f"{atom(args[0])}.{name}{invoke('', (collapse(gone) if len(gone) == 1 else gone,), rest)}"

    return emit


for _name in ("var", "std"):
    _reduce(
        _name, (f"aten.{_name}.correction", f"aten.{_name}.dim"), "a [d] b -> a b", _whole_dims(1), _emit_var(_name),
        "inputs", Sample((_X, (1,))), Sample((T((2, 4, 3)), (0, 2)), (("correction", 0), ("keepdim", True))),
        Sample((_X, (1,), False, True), target=f"aten.{_name}.dim"),
    )  # fmt: skip


def _along(call: Call) -> Rule:
    """The same letters on both sides, the dim of a scan or a sort whole (its extent may change: the k of a top-k)."""
    at = 2 if "topk" in call.node.target else 1
    shape = call.operands[0].shape
    dim = normal_dim(call.arg(at, "dim", -1), len(shape))
    names: Dims = tuple((f"d{i}",) for i in range(len(shape)))
    after = tuple(("y",) if i == dim else name for i, name in enumerate(names))
    first = next(value for value in call.results if value.name)
    extents = {f"d{i}": n for i, n in enumerate(shape)} | {"y": first.shape[dim] if first.shape else 1}
    rule = Rule(
        (names,), tuple(after if value.name else () for value in call.results), extents, frozenset({f"d{dim}", "y"})
    )
    return with_linear(rule, {0}) if "cumsum" in call.node.target and floating(call.operands[0]) else rule


def _emit_along(name: str, *table: tuple[int, str, object]) -> Emit:
    def emit(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        at = 2 if name == "topk" else 1
        given = [literal(args[1])] if name == "topk" else []
        dim = pick(args, kwargs, at, "dim", -1)
        rest = [(option, pick(args, kwargs, place, option, default), default) for place, option, default in table]
        return invoke(f"{atom(args[0])}.{name}", (*([args[1]] if given else []), dim), rest)

    return emit


_reduce(
    "cumsum", ("aten.cumsum.default",), "a [d] b -> a d b", _along, _emit_along("cumsum"), "",
    Sample((_X, 1)), Sample((T((4, 6), "index 5"), -1)),
)  # fmt: skip
_reduce(
    "cumprod", ("aten.cumprod.default",), "a [d] b -> a d b", _along, _emit_along("cumprod"), "inputs", Sample((_X, 1))
)
_reduce(
    "sort", ("aten.sort.default",), "a [d] b -> a d b, a d b", _along, _emit_along("sort", (2, "descending", False)),
    "output", Sample((_X, 1, True)), Sample((_X, 0)),
)  # fmt: skip
_reduce(
    "argsort", ("aten.argsort.default",), "a [d] b -> a d b", _along, _emit_along("argsort", (2, "descending", False)),
    "", Sample((_X, 1)),
)  # fmt: skip
_reduce(
    "topk", ("aten.topk.default",), "a [d] b -> a k b, a k b", _along,
    _emit_along("topk", (3, "largest", True), (4, "sorted", True)), "output", Sample((_X, 2, 1)),
)  # fmt: skip
