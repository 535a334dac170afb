"""What the fallback prints reaches the very ATen call it stands for, with every argument: of all operators that torch has.

Nothing is computed: a call is stopped where torch dispatches it (`autopar.ops.record.reached_call`).
"""

import re
from types import BuiltinFunctionType

import pytest
import torch

from autopar.ir.graph import Dtype, Node, Ref, Value
from autopar.ops.record.emit_context import Local, emit_context
from autopar.ops.record.fallback import emit_whole, whole_rule
from autopar.ops.record.overloads import overload_of
from autopar.ops.record.printing import Expr
from autopar.ops.record.reached_call import reached, with_defaults
from autopar.ops.record.rule import Call

PLAIN = {
    "Tensor": Ref("x"), "int": 1, "float": 1.5, "bool": True, "str": "mean", "number": 1.5,
    "SymInt": 1, "ScalarType": Dtype("float32"),
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings("ignore:This overload of")


def overloads():
    """Every overload whose name is also a function made from the schemas, and that writes to nothing."""
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        if isinstance(getattr(torch, name, None), BuiltinFunctionType) and hasattr(packet, "overloads"):
            for overload in packet.overloads():
                schema = getattr(packet, overload)._schema
                if not schema.is_mutable and not any("?" in _kind(one) for one in needed(schema)):
                    yield f"aten.{name}.{overload}"


def needed(schema):
    return [one for one in schema.arguments if not one.has_default_value()]


def _kind(argument):
    """The type's name; of an unknown one with a question mark."""
    inner = re.sub(r"Optional\[(.*)\]", r"\1", str(argument.real_type))
    inner = re.sub(r"List\[(.*)\]", r"\1", inner)
    return inner if inner in PLAIN else f"?{inner}"


def _value(argument):
    if "Optional" in str(argument.real_type):
        return None
    plain = PLAIN[_kind(argument)]
    return (plain,) if "List" in str(argument.real_type) else plain


def least(target):
    """A call with nothing but what the overload must be given."""
    schema = overload_of(target)._schema
    args = tuple(_value(one) for one in needed(schema) if not one.kwarg_only)
    kwargs = tuple((one.name, _value(one)) for one in needed(schema) if one.kwarg_only)
    value = Value("x", (4, 6), "float32", False)
    return Call(Node("call", target, args, kwargs, ("y",)), (value,), (value,))


def printed(call):
    return emit_whole(emit_context(call, whole_rule(call), Local(), map(Expr, call.node.inputs)))


def test_the_fallback_reaches_the_call():
    x = torch.empty(4, 6, device="meta")

    def real(value):
        if isinstance(value, Dtype):
            return getattr(torch, value.name)
        return tuple(map(real, value)) if isinstance(value, tuple) else x if isinstance(value, Ref) else value

    wrong, by_name = [], 0
    for target in overloads():
        call = least(target)
        line = printed(call)
        if line.startswith("torch.ops."):  # the overload itself
            continue
        by_name += 1
        found = reached(lambda line=line: eval(line, {"torch": torch, "x": x}), (), {})
        kwargs = {name: real(value) for name, value in call.node.kwargs}
        meant = with_defaults(overload_of(target), tuple(map(real, call.node.args)), kwargs)
        if found is None or found[0] != target or not same(found[1], meant):
            wrong.append(f"{target}: {line} reaches {found}")
    assert not wrong
    assert by_name > 500, "hardly anything is printed by name"


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one is other
    if isinstance(one, dict):
        return all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(
    ("target", "args", "line"),
    [
        ("aten.diff.default", (Ref("x"),), "torch.diff(x)"),
        ("aten.margin_ranking_loss.default", (Ref("x"),) * 3, "torch.margin_ranking_loss(x, x, x, 0.0, 1)"),
        ("aten.add.Scalar", (Ref("x"), 1.5), "torch.ops.aten.add.Scalar(x, 1.5)"),
        ("aten.index.Tensor", (Ref("x"), (None, Ref("x"))), "torch.ops.aten.index.Tensor(x, (None, x))"),
    ],
)
def test_line(target, args, line):
    value = Value("x", (4, 6), "float32", False)
    assert printed(Call(Node("call", target, args, (), ("y",)), (value,), (value,))) == line
