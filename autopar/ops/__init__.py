"""Operators: the letter notation (`rule`), the record (`op`), and one file per operator family, listed in `library`.

What a record is written with is offered here, for users' own (docs/adding_an_operator.md):

    Op, Inner, Sample, T      the record, the messages inside its distributed form, samples and their tensors
    letters, with_linear      a rule from its notation, and the operands in which the call is linear
    EmitContext               what an emitter is given: it returns the text of the rank-local call
    function, method, invoke  emitters of ``f(x, y, option=value)`` and ``x.f(option=value)``, and the text of one call
"""

from autopar.ops.record.emit_context import EmitContext, function, method
from autopar.ops.record.op import Inner, Op, Sample, T
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, letters, with_linear
from autopar.ops.registry import register_operator

__all__ = [
    "Call",
    "EmitContext",
    "Inner",
    "Op",
    "Rule",
    "Sample",
    "T",
    "function",
    "invoke",
    "letters",
    "method",
    "register_operator",
    "with_linear",
]
