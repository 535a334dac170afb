"""Arguments of an FX call in one canonical form, so that equal calls look equal.

Positional in the schema's order, defaults filled in up to the last argument given; literals plain; sizes without -1;
dims and slice bounds counted from the front. Devices, memory formats and layouts are left out: a program runs where its
inputs are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from autopar.ir.graph import Argument, Dtype, Ref

_DROPPED = (torch.device, torch.layout, torch.memory_format)
_DIM_NAMES = frozenset({"dim", "dim0", "dim1", "dims", "start_dim", "end_dim"})
_ONE_MORE = frozenset({"aten.unsqueeze.default", "aten.stack.default"})  # their dim counts the result's dims
_SIZED = {
    "aten.view.default": "aten.reshape.default",
    "aten.reshape.default": "aten.reshape.default",
    "aten._unsafe_view.default": "aten.reshape.default",
    "aten.flatten.using_ints": "aten.reshape.default",
    "aten.unflatten.int": "aten.reshape.default",
    "aten.expand.default": "aten.expand.default",
}

Call = tuple[str, tuple[Argument, ...], tuple[tuple[str, Argument], ...]]


def canonical(node: fx.Node, ref: Callable[[fx.Node], Ref]) -> Call:
    """Target, positional and keyword arguments of a call_function node. `ref` names a tensor argument."""
    target = str(node.target)
    if target in _SIZED:
        size = tuple(int(n) for n in node.meta["val"].shape)
        return _SIZED[target], (_plain(node.args[0], ref), size), ()
    args, kwargs = _positional(node)
    names = [*_names(node), *("" for _ in args)]
    plain = [_front(name, _plain(arg, ref), node) for name, arg in zip(names, args, strict=False)]
    if target == "aten.slice.Tensor":
        plain = _slice(plain, node)
    kept = {key: _plain(value, ref) for key, value in kwargs.items() if _kept(key, value)}
    return target, tuple(plain), tuple(sorted(kept.items()))


def _positional(node: fx.Node) -> tuple[list[object], dict[str, object]]:
    """Move keyword arguments that the schema counts as positional into place, with defaults in the gaps."""
    args, kwargs = list(node.args), dict(node.kwargs)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return list(args), dict(kwargs)
    free = [argument for argument in schema.arguments if not argument.kwarg_only]
    last = max((i for i, argument in enumerate(free) if argument.name in kwargs), default=-1)
    for argument in free[len(args) : last + 1]:
        args.append(kwargs.pop(argument.name, argument.default_value))
    return list(args), dict(kwargs)


def _names(node: fx.Node) -> list[str]:
    schema = getattr(node.target, "_schema", None)
    return [argument.name for argument in schema.arguments] if schema else []


def _kept(key: str, value: object) -> bool:
    return value is not None and key not in ("pin_memory", "non_blocking") and not isinstance(value, _DROPPED)


def _plain(value: object, ref: Callable[[fx.Node], Ref]) -> Argument:
    """A literal as our own kind of argument."""
    if isinstance(value, fx.Node):
        return ref(value)
    if isinstance(value, torch.dtype):
        return Dtype(str(value).removeprefix("torch."))
    if isinstance(value, list | tuple):
        return tuple(_plain(item, ref) for item in value)
    if isinstance(value, _DROPPED):
        return None
    assert value is None or isinstance(value, bool | int | float | complex | str), f"an argument of type {type(value)}"
    return value


def _front(name: str, value: Argument, node: fx.Node) -> Argument:
    """A dim or a tuple of dims, counted from the front."""
    if name not in _DIM_NAMES:
        return value
    if isinstance(value, tuple):
        return tuple(_front(name, item, node) for item in value)
    return value + (_counted(node) or 0) if isinstance(value, int) and value < 0 else value


def _counted(node: fx.Node) -> int | None:
    """How many dims a negative one is counted by: those of the first tensor, and one more for a few.

    None where another tensor, or the result, has more of them: the dim may be one of that. It stays negative then.
    """
    if not isinstance(node.args[0], fx.Node | list | tuple):
        return None
    operands = [source.meta["val"] for source in node.all_input_nodes]
    ndim, *others = [len(operand.shape) for operand in operands if hasattr(operand, "shape")]
    if str(node.target) in _ONE_MORE:
        return ndim + 1
    result = node.meta["val"]
    results = result if isinstance(result, list | tuple) else [result]
    others += [len(tensor.shape) for tensor in results if tensor is not None]
    return ndim if max(others, default=0) <= ndim else None


def _slice(args: list[Argument], node: fx.Node) -> list[Argument]:
    """``x, dim, start, end, step`` with bounds inside the extent."""
    x, dim, start, end, step = args + [0, None, None, 1][len(args) - 1 :]
    source = node.args[0]
    assert isinstance(dim, int)
    assert isinstance(source, fx.Node)
    begin, stop, _ = slice(start, end).indices(int(source.meta["val"].shape[dim]))
    return [x, dim, begin, max(begin, stop), step]
