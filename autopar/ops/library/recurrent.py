"""Recurrent layers, all time steps and layers of them in one call: LSTM, GRU, and the plain one with tanh or relu.

    x[t, n, k], h[l, n, j] (and c[l, n, m]), weights -> y[t, n, f], h'[l, n, j] (and c'[l, n, m])

Sequences n are independent of one another. Time is a chain, and a state feeds all features of the next: both are whole.
Cells (``nn.LSTMCell``) have no record: capture writes them out as products, whose features can be split.
"""

from __future__ import annotations

import math

from autopar.ir.graph import Ref
from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, contraction
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Dims, Rule

_LAYERS, _DROPOUT, _TRAIN, _BATCH_FIRST = 4, 5, 6, 8  # places among the arguments


def _recurrent(call: Call) -> Rule:
    """The sequences' letter n. Raises ValueError for dropout, and for a single sequence without a batch dim."""
    layers, dropout, train = (call.node.args[i] for i in (_LAYERS, _DROPOUT, _TRAIN))
    if dropout and train and layers != 1:
        raise ValueError("random numbers")
    if len(call.operands[0].shape) != 3:
        raise ValueError("one sequence")
    states = 1 if isinstance(call.node.args[1], Ref) else 2
    batch = 0 if call.node.args[_BATCH_FIRST] else 1
    extents = {"n": call.operands[0].shape[batch]}

    def dims(shape: tuple[int, ...], of: str, at: int) -> Dims:
        extents.update({f"{of}{i}": n for i, n in enumerate(shape) if i != at})
        return tuple(("n",) if i == at else (f"{of}{i}",) for i in range(len(shape)))

    places = [batch] + [1] * states
    operands = [
        dims(value.shape, f"{'xhc'[i] if i <= states else f'w{i}_'}", places[i] if i <= states else -1)
        for i, value in enumerate(call.operands)
    ]
    results = [
        dims(value.shape, f"{'yst'[i]}", places[i]) if value.name else () for i, value in enumerate(call.results)
    ]
    return Rule(tuple(operands), tuple(results), extents, frozenset(extents) - {"n"})


def _emit(ctx: EmitContext) -> str:
    return invoke(f"torch.{ctx.call.function}", ctx.args)


def _flops(call: Call, rule: Rule) -> float:
    """Two per weight, time step and sequence."""
    x, *others = call.operands
    states = 1 if isinstance(call.node.args[1], Ref) else 2
    return 2.0 * math.prod(x.shape[:2]) * sum(value.numel for value in others[states:])


def _sample(target: str, gates: int, states: int, layers: int, ways: int, first: bool, biases: bool = True) -> Sample:
    """Sequences of 3 steps of 5 features, four of them, 2 features of state."""
    weights = []
    for layer in range(layers):
        for _ in range(ways):
            shapes = [(2 * gates, 5 if layer == 0 else 2 * ways), (2 * gates, 2), *[(2 * gates,)] * (2 * biases)]
            weights += [T(shape) for shape in shapes]
    state = T((layers * ways, 4, 2))
    x = T((4, 3, 5) if first else (3, 4, 5))
    held = state if states == 1 else (state, state)
    return Sample((x, held, tuple(weights), biases, layers, 0.0, True, ways == 2, first), target=target)


contraction(
    "recurrent",
    ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input"),
    "x n k, l n j, ... -> x n f, l n j",
    _recurrent,
    _emit,
    _sample("aten.lstm.input", 4, 2, 2, 1, True),
    _sample("aten.lstm.input", 4, 2, 1, 2, False),
    _sample("aten.gru.input", 3, 1, 2, 1, False),
    _sample("aten.gru.input", 3, 1, 1, 1, True, biases=False),
    _sample("aten.rnn_tanh.input", 1, 1, 1, 2, True),
    _sample("aten.rnn_relu.input", 1, 1, 1, 1, False),
    flops=_flops,
)
