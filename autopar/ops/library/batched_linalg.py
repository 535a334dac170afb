"""Linear algebra that exists for its options or its age, matrix by matrix; calls are printed as torch knows them."""

from __future__ import annotations

from collections.abc import Callable

from autopar.ops.record.fallback import emit_whole
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.rule import Call, Rule, letters


def _flops(call: Call, rule: Rule) -> float:
    """About n^3 for every matrix."""
    return float(call.operands[0].numel * call.operands[0].shape[-1])


def _by_matrix(notation: str) -> Callable[[Call], Rule]:
    return lambda call: letters(notation, call)


_MATRIX, _SQUARE = T((4, 3, 2)), T((4, 3, 3))
_ONE = T((6, 1, 1), "unit")
for _name, _note, _keeps, *_samples in (
    ("cholesky", "b* [n] [n] -> b* [n] [n]", "y0", Sample((_ONE,)), Sample((_ONE, True))),
    ("linalg_cholesky_ex", "b* [n] [n] -> b* [n] [n], b*", "y0", Sample((_ONE,))),
    ("linalg_inv_ex", "b* [n] [n] -> b* [n] [n], b*", "y0", Sample((_SQUARE,))),
    ("linalg_lu_factor_ex", "b* [n] [m] -> b* [n] [m], b* [k], b*", "y0 y1", Sample((_SQUARE,))),
    ("logdet", "b* [n] [n] -> b*", "x0", Sample((_ONE,))),
    ("qr", "b* [n] [m] -> b* [n] [k], b* [k] [m]", "y0 y1", Sample((_MATRIX,))),
    ("pinverse", "b* [n] [m] -> b* [m] [n]", "x0 y0", Sample((_MATRIX,))),
    ("linalg_eigvals", "b* [n] [n] -> b* [n]", "y0", Sample((_SQUARE,))),
):
    register(
        Op(
            f"batched {_name}", (f"aten.{_name}.default",), _note, _by_matrix(_note), emit_whole, work="reduce", flops=_flops,
            backward=2.0, samples=tuple(_samples), keeps=_keeps,
        )
    )  # fmt: skip
