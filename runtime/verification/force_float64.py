"""Runs a model in float64 all the way, although its own code asks for float32 somewhere.

Models cast to float32 where they want precision beyond their weights' (logits before a loss, the inside of a norm), and
make float32 tensors of their own (``torch.zeros(n)``, ``torch.arange(n) * 0.1``). In a float64 run the first lose
precision, and two correct programs then differ by float32's rounding; the second do not fit float64 weights at all. Under
`ForceFloat64`, what asks for float32 gets float64, and so does what asks for nothing: a model says ``linspace(0, 1, n)`` or
``linspace(0, 1, n, dtype=x.dtype)``, and its program, which is captured in float32, says the same for both.

Numbers written into the model, as in ``torch.tensor([0.1, 0.2])``, are the exception. The program holds them as capture has
seen them, rounded to float32. So they are rounded here as well, and then computed with in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autopar.runtime.parameters.precision import in_precision, precise
from autopar.runtime.parameters.sources import ComparedSource, Source

_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}
_ASKED = _WIDER | {torch.bfloat16: torch.float64, torch.float16: torch.float64}  # what autocast writes into a program
_FILLED = {torch.ops.aten.full.default: 1, torch.ops.aten.scalar_tensor.default: 0}  # where the number stands


class ForceFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Casts to float32, and new tensors of float32, become float64. `written` says that it is the model that runs.

    Then numbers of its text are `rounded`. Programs have none, but what the runtime brings over from numpy looks alike.
    """

    def __init__(self, written: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written = written

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 (an overload)
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        """Call the operator with every dtype argument that says float32 saying float64; so for one that says none."""
        options: dict[str, Any] = {
            name: _ASKED.get(value, value) if isinstance(value, torch.dtype) else value
            for name, value in (kwargs or {}).items()
        }
        if func is torch.ops.aten.lift_fresh.default:
            return rounded(func(*args)) if self.written else func(*args)
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype is torch.float64:
            return grouped_mm(*args, **options)
        if any(value.alias_info is not None for value in (*func._schema.arguments, *func._schema.returns)):
            return func(*args, **options)  # in place, or a view: of what it is given
        args, options = tree_map(lambda x: in_precision(x, torch.float64) if _narrow(x) else x, (args, options))
        if func in _FILLED and isinstance(args[_FILLED[func]], float):  # which float32 may not hold
            options["dtype"] = options.get("dtype") or torch.float64
        result = func(*args, **options)
        return _made_wide(func, args, options, result) if any(map(_narrow, tree_leaves(result))) else result


def _made_wide(func: Any, args: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:  # noqa: ANN401
    """A result that is float32 for want of a dtype, in float64: made again, so that its numbers are those of float64."""
    drawn = torch.Tag.nondeterministic_seeded in func.tags
    tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
    if not drawn and not tensors and any(argument.name == "dtype" for argument in func._schema.arguments):
        return func(
            *args, **options | {"dtype": precise(next(filter(_narrow, tree_leaves(result))).dtype, torch.float64)}
        )
    if not drawn and tensors and not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        args, options = tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) else leaf, (args, options))
        result = func(*args, **options)
    return tree_map(lambda leaf: in_precision(leaf, torch.float64) if _narrow(leaf) else leaf, result)


def rounded(tensor: Tensor) -> Tensor:
    """A number that stands in the model's text, as the program holds it: rounded to float32, in float64."""
    if tensor.dtype in _WIDER.values():
        tensor = in_precision(tensor, torch.float32)
    return in_precision(tensor, torch.float64)


def as_written(values: Source) -> Source:
    """What a program is given, with the numbers that stand in the model's text `rounded`, as the model gets them."""
    return ComparedSource(
        (name, rounded(value) if isinstance(value, Tensor) and name.startswith("lifted_tensor") else value)
        for name, value in values
    )


class NarrowestDtype(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest relative `rounding` of the types in which anything is computed while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounding = 0.0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        """Call the operator and look at its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype in (torch.float16, torch.bfloat16):
                self.rounding = max(self.rounding, torch.finfo(leaf.dtype).eps)
        return result


def _narrow(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in _WIDER


def grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """``torch.nn.functional.grouped_mm``, which torch has no float64 of.

    One product per group: group i is ``a[i]`` of a three-dimensional `a`, else the rows ``offs[i - 1]:offs[i]`` of `a`
    (its columns, and those rows of `b`, where both have two dims); likewise the columns of a two-dimensional `b`.
    """
    count = next((operand.shape[0] for operand in (a, b) if operand.dim() == 3), 0 if offs is None else offs.numel())
    left = a if a.dim() == 3 else _groups(a, offs, 0 if b.dim() == 3 else 1)
    right = b if b.dim() == 3 else _groups(b, offs, 1 if a.dim() == 3 else 0)
    products = [rows @ other for rows, other in zip(left, right, strict=True)]
    assert bias is None
    assert len(products) == count
    if a.dim() == b.dim():
        return torch.stack(products)
    return torch.cat(products, 0 if a.dim() == 2 else 1)


def _groups(x: Tensor, offs: Tensor | None, dim: int) -> Iterator[Tensor]:
    assert offs is not None
    start = 0
    for end in offs.tolist():
        yield x.narrow(dim, start, end - start)
        start = end
