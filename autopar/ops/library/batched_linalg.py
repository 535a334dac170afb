"""Linear algebra that exists for its options or its age, matrix by matrix; calls are printed as torch knows them."""

from __future__ import annotations

from autopar.ops.library.linalg import cubic
from autopar.ops.record.dim_letters import noted
from autopar.ops.record.fallback import emit_whole
from autopar.ops.record.op import Op, Sample, T, register

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
            f"batched {_name}", (f"aten.{_name}.default",), _note, noted(_note), emit_whole, work="reduce", flops=cubic,
            backward=2.0, samples=tuple(_samples), keeps=_keeps,
        )
    )  # fmt: skip
