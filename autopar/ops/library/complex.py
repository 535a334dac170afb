"""Complex numbers from real ones and back, element by element.

Every dim is a letter, and all but polar forms are linear over the real numbers, so that partial sums pass through them.

    view_as_real     d* -> d* [p]      the last dim holds the real and the imaginary part
    view_as_complex  d* [p] -> d*
    conj             d* -> d*          written out (``torch.conj_physical``): a lazy conjugate is not what lies in memory
    complex          d*, d* -> d*      from real and imaginary part;  polar from absolute value and angle
"""

from __future__ import annotations

from autopar.ops.record.dim_letters import noted
from autopar.ops.record.emit_context import Emit, EmitContext, function
from autopar.ops.record.op import Sample, T, memory
from autopar.ops.record.printing import atom
from autopar.ops.record.rule import Call, Rule, broadcast, with_linear

_Z = T((4, 6), "complex")
_PAIRS = T((4, 3, 2))


def _linear(call: Call) -> Rule:
    """Linear over the real numbers, in all operands together."""
    return with_linear(broadcast(call), range(len(call.operands)))


def _method(name: str) -> Emit:
    def emit(ctx: EmitContext) -> str:
        return f"{atom(ctx.args[0])}.{name}"

    return emit


def _pairs(ctx: EmitContext) -> str:
    """A rank may have no part of what is split, for which torch's own function has no gradient."""
    return f"view_as_real({ctx.args[0]})" if ctx.local.splits else f"torch.view_as_real({ctx.args[0]})"


def _contiguous_pairs(ctx: EmitContext) -> str:
    """torch views pairs as complex numbers only where they lie side by side; our tensors may lie any way."""
    return f"torch.view_as_complex({atom(ctx.args[0])}.contiguous())"


memory(
    "view_as_real", ("aten.view_as_real.default",), "d* -> d* [p]", noted("d* -> d* [p]", {0}), _pairs,
    Sample((_Z,)),
)  # fmt: skip
memory(
    "view_as_complex", ("aten.view_as_complex.default",), "d* [p] -> d*", noted("d* [p] -> d*", {0}),
    _contiguous_pairs,
    Sample((_PAIRS,)),
)  # fmt: skip
memory(
    "conj", ("aten._conj.default", "aten.conj.default"), "d* -> d*", _linear,
    function("torch.conj_physical", 1),
    Sample((_Z,)), Sample((_Z,), target="aten.conj.default"),
)  # fmt: skip
memory(
    "real", ("aten.real.default",), "d* -> d*", _linear, _method("real"), Sample((_Z,)),
)  # fmt: skip
memory(
    "imag", ("aten.imag.default",), "d* -> d*", _linear, _method("imag"), Sample((_Z,)),
)  # fmt: skip
memory(
    "complex", ("aten.complex.default",), "d*, d* -> d*", _linear, function("torch.complex", 2),
    Sample((T((4, 6)), T((4, 6)))), Sample((T((4, 6)), T((6,)))),
)  # fmt: skip
memory(
    "polar", ("aten.polar.default",), "d*, d* -> d*", broadcast, function("torch.polar", 2),
    Sample((T((4, 6), "unit"), T((4, 6)))), saves="output",
)  # fmt: skip
