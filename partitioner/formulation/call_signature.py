"""What a call is up to the names of its tensors: calls that are alike have the same letters, strategies and prices.

The blocks of a deep model make the same calls over and over, so everything that is worked out per call is worked out once per
signature: pricing eighty layers takes little longer than pricing two.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopar.ir.graph import Ref, Value
from autopar.ops.record.rule import Call

Signature = tuple[object, ...]


def signature_of(call: Call) -> Signature:
    """The call's operator, literals, wiring, shapes and dtypes, without the names."""
    names: dict[str, int] = {}
    for value in (*call.operands, *call.results):
        names.setdefault(value.name, len(names))
    node = call.node
    keywords = tuple((name, _masked(value, names)) for name, value in node.kwargs)
    tensors = tuple(map(_tensor, (*call.operands, *call.results)))
    results = tuple(names[result.name] for result in call.results)
    return node.target, _masked(node.args, names), keywords, tensors, results


def _tensor(value: Value) -> tuple[object, ...]:
    return bool(value.name), value.shape, value.dtype, value.differentiable


def _masked(argument: object, names: Mapping[str, int]) -> object:
    """An argument in which a tensor is a number; literals go with their types, since 1, 1.0 and True are equal."""
    if isinstance(argument, Ref):
        return ("tensor", names[argument.name])
    if isinstance(argument, tuple):
        return tuple(_masked(item, names) for item in argument)
    return type(argument).__name__, argument
