"""Linear algebra on the last two dims, matrix by matrix: the matrices are whole, those before them are letters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from autopar.ops.record.dim_letters import noted
from autopar.ops.record.emit_context import Emit, function
from autopar.ops.record.op import Op, Sample, T, contraction, register
from autopar.ops.record.rule import Call, Rule, letters, with_linear

_SQUARE = T((4, 3, 3))


def _rule(notation: str, *linear: set[int]) -> Callable[[Call], Rule]:
    def rule(call: Call) -> Rule:
        transposed = (
            dict(call.node.kwargs).get("left", True) is False
        )  # X A = B: rows of B are independent, not columns
        return noted(notation.replace("[n] m", "m [n]") if transposed else notation, *linear)(call)

    return rule


def cubic(call: Call, rule: Rule) -> float:
    """About n^3 for every matrix."""
    return float(call.operands[0].numel * call.operands[0].shape[-1])


def _solve(call: Call) -> Rule:
    """Raises ValueError where the right side has fewer dims: torch tells vectors from matrices by the extents of a part."""
    if len(call.operands[0].shape) != len(call.operands[1].shape):
        raise ValueError("vectors on the right side, or one matrix for all")
    return _rule("b* [n] [n], b* [n] m -> b* [n] m", {1})(call)


_OTHER_SIDE = (("left", False),)
_DEFINITE = T((4, 3, 3), "definite")
_TABLE: tuple[tuple[str, str, str, tuple[set[int], ...], Emit, tuple[Sample, ...]], ...] = (
    ("inv", "aten.linalg_inv.default", "b* [n] [n] -> b* [n] [n]", (), function("torch.linalg.inv", 1), (Sample((_SQUARE,)),)),
    (
        "solve", "aten.linalg_solve.default", "b* [n] [n], b* [n] m -> b* [n] m", ({1},),
        function("torch.linalg.solve", 2, ("left", True)),
        (Sample((_SQUARE, T((4, 3, 6)))), Sample((_SQUARE, T((4, 3, 3))), _OTHER_SIDE)),
    ),
    ("det", "aten.linalg_det.default", "b* [n] [n] -> b*", (), function("torch.linalg.det", 1), (Sample((_SQUARE,)),)),
    (
        "slogdet", "aten.linalg_slogdet.default", "b* [n] [n] -> b*, b*", (), function("torch.linalg.slogdet", 1),
        (Sample((_SQUARE,)),),
    ),
    ("cholesky", "aten.linalg_cholesky.default", "b* [n] [n] -> b* [n] [n]", (),
     function("torch.linalg.cholesky", 1, ("upper", False)), (Sample((_DEFINITE,)), Sample((_DEFINITE,), (("upper", True),)))),
    ("qr", "aten.linalg_qr.default", "b* [n] [m] -> b* [n] [k], b* [k] [m]", (),
     function("torch.linalg.qr", 1, ("mode", "reduced")), (Sample((T((4, 3, 2)),)),)),
    ("svdvals", "aten.linalg_svdvals.default", "b* [n] [m] -> b* [k]", (), function("torch.linalg.svdvals", 1),
     (Sample((T((4, 3, 2)),)),)),
    ("eigh", "aten.linalg_eigh.default", "b* [n] [n] -> b* [n], b* [n] [n]", (), function("torch.linalg.eigh", 1, ("UPLO", "L")),
     (Sample((_SQUARE,)),)),
    ("eigvalsh", "aten.linalg_eigvalsh.default", "b* [n] [n] -> b* [n]", (), function("torch.linalg.eigvalsh", 1, ("UPLO", "L")),
     (Sample((_SQUARE,)),)),
    ("solve_triangular", "aten.linalg_solve_triangular.default", "b* [n] [n], b* [n] m -> b* [n] m", ({1},),
     function("torch.linalg.solve_triangular", 2, ("upper", None), ("left", True), ("unitriangular", False)),
     (
         Sample((_SQUARE, T((4, 3, 6))), (("upper", True),)),
         Sample((_SQUARE, T((4, 3, 3))), (*_OTHER_SIDE, ("upper", False))),
         Sample((_SQUARE, T((4, 6, 3))), (*_OTHER_SIDE, ("upper", True))),
     )),
    (
        "matrix_exp", "aten.linalg_matrix_exp.default", "b* [n] [n] -> b* [n] [n]", (),
        function("torch.linalg.matrix_exp", 1), (Sample((_SQUARE,)),),
    ),
    (
        "matrix_power", "aten.linalg_matrix_power.default", "b* [n] [n] -> b* [n] [n]", (),
        function("torch.linalg.matrix_power", 2), (Sample((_SQUARE, 3)),),
    ),
)  # fmt: skip
for _name, _target, _note, _linear, _emit, _samples in _TABLE:
    register(
        Op(
            _name, (_target,), _note, _solve if _name == "solve" else _rule(_note, *_linear), _emit, work="reduce",
            flops=cubic, backward=2.0, samples=_samples,
        )
    )  # fmt: skip


def _multi_dot(call: Call) -> Rule:
    """A chain of matrices: every dim between two of them is summed."""
    names = [f"k{i}" for i in range(len(call.operands) + 1)]
    if any(len(value.shape) != 2 for value in call.operands):
        raise ValueError("a vector at an end of the chain")
    factors = ", ".join(f"{left} {right}" for left, right in itertools.pairwise(names))
    return with_linear(
        letters(f"{factors} -> {names[0]} {names[-1]}", _flat(call)), *({i} for i in range(len(names) - 1))
    )


def _flat(call: Call) -> Call:
    """The call with the operands of its list as arguments."""
    return replace(call, node=replace(call.node, args=call.node.args[0]))  # type: ignore[arg-type]  # a list of tensors


contraction(
    "multi_dot",
    ("aten.linalg_multi_dot.default",),
    "m k, k l, l n -> m n",
    _multi_dot,
    function("torch.linalg.multi_dot", 1),
    Sample(((T((4, 3)), T((3, 2)), T((2, 6))),)),
)
