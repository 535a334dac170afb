"""Matrix products: one letter per dim, and the contracted letter is missing from the result.

    y[b, m, n] = sum_k x[b, m, k] w[b, k, n]

Splitting k gives partial sums, splitting m or n a part of the result, splitting a batch letter a batch of smaller
products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autopar.ops.library.arithmetic import infix
from autopar.ops.library.distances import along
from autopar.ops.record.dim_letters import aligned, lettered, named, noted
from autopar.ops.record.emit_context import Emit, EmitContext, function
from autopar.ops.record.op import Op, Sample, T, contraction, register
from autopar.ops.record.printing import atom, invoke, literal
from autopar.ops.record.rule import Call, Dims, Rule, letters, with_linear


def _matmul(call: Call) -> Rule:
    """``torch.matmul``: vectors, matrices and batches, batch dims aligned from the right and broadcast."""
    x, w = call.operands
    shape = call.results[0].shape
    inner = (len(x.shape) > 1) + (len(w.shape) > 1)
    batch = named(shape[: len(shape) - inner], prefix="b")
    rows: Dims = (("m",),) if len(x.shape) > 1 else ()
    columns: Dims = (("n",),) if len(w.shape) > 1 else ()
    left = (*aligned(x.shape[:-2], batch, shape[: len(batch)]), *rows, ("k",))
    right = (*aligned(w.shape[:-2], batch, shape[: len(batch)]), ("k",), *columns)
    return with_linear(lettered(call, [left, right], [(*batch, *rows, *columns)]), {0}, {1})


contraction(
    "matmul",
    ("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default"),
    "b* m k, b* k n -> b* m n",
    _matmul,
    infix("@"),
    Sample((T((4, 6)), T((6, 5)))),
    Sample((T((2, 3, 4, 6)), T((3, 6, 4)))),
    Sample((T((2, 4, 6)), T((6,)))),
    Sample((T((6,)), T((6, 4)))),
    Sample((T((1, 4, 6)), T((3, 6, 2)))),
    Sample((T((6,)), T((6,))), target="aten.dot.default"),
    Sample((T((2, 4, 6)), T((2, 6, 3))), target="aten.bmm.default"),
    Sample((T((4, 6)), T((6,))), target="aten.mv.default"),
)


def _addmm(call: Call) -> Rule:
    """y = beta * bias + alpha * a @ b, the bias a row or a matrix or broadcast."""
    product = _matmul(replace(call, operands=call.operands[1:]))
    bias = call.operands[0].shape
    names = product.results[0][len(product.results[0]) - len(bias) :]
    dims = tuple(name if n == product.extents[name[0]] else () for name, n in zip(names, bias, strict=True))
    rule = replace(product, operands=(dims, *product.operands), addends=frozenset({0}))
    return with_linear(rule, {0, 1}, {0, 2})


def _emit_addmm(ctx: EmitContext) -> str:
    beta, alpha = ctx.kwargs.get("beta", 1), ctx.kwargs.get("alpha", 1)
    product = f"{atom(ctx.args[1])} @ {atom(ctx.args[2])}"
    scaled = product if alpha == 1 else f"{literal(alpha)} * ({product})"
    bias = atom(ctx.args[0]) if beta == 1 else f"{literal(beta)} * {atom(ctx.args[0])}"
    return f"{bias} + {scaled}"


contraction(
    "addmm",
    ("aten.addmm.default", "aten.baddbmm.default"),
    "n, m k, k n -> m n",
    _addmm,
    _emit_addmm,
    Sample((T((4,)), T((5, 6)), T((6, 4)))),
    Sample((T((5, 1)), T((5, 6)), T((6, 4))), (("alpha", 0.5), ("beta", 2))),
    Sample((T((2, 3, 4)), T((2, 3, 6)), T((2, 6, 4))), target="aten.baddbmm.default"),
)


register(
    Op(
        "outer", ("aten.outer.default", "aten.ger.default"), "m, n -> m n", noted("m, n -> m n", {0}, {1}),
        function("torch.outer", 2), samples=(Sample((T((4,)), T((6,)))),),
    )
)  # fmt: skip


def _bilinear(call: Call) -> Rule:
    """y[b, o] = sum_ij x[b, i] w[o, i, j] z[b, j] + bias[o]."""
    rule = replace(letters("b* i, b* j, o i j, o? -> b* o", call), filled=frozenset({"i", "j"}))
    if len(call.operands) == 3:
        return with_linear(rule, {0}, {1}, {2})
    return replace(with_linear(rule, {0, 3}, {1, 3}, {2, 3}), addends=frozenset({3}))


def _scaled(call: Call, notation: str, factors: tuple[int, int]) -> Rule:
    """beta * a term + alpha * a product: linear in the term together with either factor, the term added once."""
    rule = letters(notation, call)
    return replace(with_linear(rule, {0, factors[0]}, {0, factors[1]}), addends=frozenset({0}))


def _addbmm(call: Call) -> Rule:
    return _scaled(call, "m n, b m k, b k n -> m n", (1, 2))


def _addmv(call: Call) -> Rule:
    """Raises ValueError for a term of one row: torch does not broadcast it where a part has no rows or columns."""
    if call.operands[0].shape != call.results[0].shape:
        raise ValueError("a term that is broadcast")
    return _scaled(call, "m, m k, k -> m", (1, 2))


def _addr(call: Call) -> Rule:
    return _scaled(call, "m n, m, n -> m n", (1, 2))


def _kron(call: Call) -> Rule:
    """Every dim of the result is the product of a dim of each operand."""
    if len(call.operands[0].shape) != len(call.operands[1].shape):
        raise ValueError("operands with different numbers of dims")
    left = [f"m{i}" for i in range(len(call.operands[0].shape))]
    right = [f"n{i}" for i in range(len(left))]
    pairs = " ".join(f"({a} {b})" for a, b in zip(left, right, strict=True))
    return with_linear(letters(f"{' '.join(left)}, {' '.join(right)} -> {pairs}", call), {0}, {1})


def _weight_norm(call: Call) -> Rule:
    """v g / |v|, the norm over all dims but one."""
    shape, dim = call.operands[0].shape, call.arg(2, "dim", 0)
    names = named(shape)
    scales = tuple(name if i == dim and shape[i] > 1 else () for i, name in enumerate(names))
    rule = lettered(call, [names, scales], [names], (f"d{i}" for i in range(len(shape)) if i != dim))
    return replace(with_linear(rule, {1}), filled=frozenset({f"d{dim}"}))  # torch dies of an empty part


def _vecdot(call: Call) -> Rule:
    """Summed along a dim of what both are broadcast to."""
    return with_linear(replace(along(call, call.arg(2, "dim", -1)), frozen=frozenset()), {0}, {1})


_SCALES = (("beta", 1), ("alpha", 1))
_X, _Y = T((4, 6)), T((6, 4))
_PRODUCTS: tuple[tuple[str, str, str, Callable[[Call], Rule], Emit, tuple[Sample, ...]], ...] = (
    (
        "bilinear", "aten.bilinear.default", "b* i, b* j, o i j, o? -> b* o", _bilinear, function("F.bilinear", 4),
        (Sample((T((4, 3)), T((4, 2)), T((6, 3, 2)), T((6,)))), Sample((T((2, 4, 3)), T((2, 4, 2)), T((6, 3, 2)), None))),
    ),
    (
        "addbmm", "aten.addbmm.default", "m n, b m k, b k n -> m n", _addbmm, function("torch.addbmm", 3, *_SCALES),
        (Sample((T((4, 3)), T((2, 4, 6)), T((2, 6, 3))), (("alpha", 0.5),)),),
    ),
    (
        "addmv", "aten.addmv.default", "m, m k, k -> m", _addmv, function("torch.addmv", 3, *_SCALES),
        (Sample((T((4,)), _X, T((6,))), (("beta", 2),)),),
    ),
    (
        "addr", "aten.addr.default", "m n, m, n -> m n", _addr, function("torch.addr", 3, *_SCALES),
        (Sample((_X, T((4,)), T((6,)))),),
    ),
    (
        "kron", "aten.kron.default", "m, n -> (m n)", _kron, function("torch.kron", 2),
        (Sample((T((2, 3)), T((4, 2)))),),
    ),
    (
        "vdot", "aten.vdot.default", "k, k ->", noted("k, k ->", {0}, {1}),  # a conjugate, which additions pass through
        function("torch.vdot", 2),
        (Sample((T((6,)), T((6,)))), Sample((T((6,), "complex"), T((6,), "complex")))),
    ),
    (
        "weight_norm", "aten._weight_norm.default", "n [k]*, n 1* -> n [k]*", _weight_norm, function("torch._weight_norm", 3),
        (Sample((T((6, 4)), T((6, 1)), 0)), Sample((T((3, 4, 2)), T((1, 4, 1)), 1))),
    ),
    (
        "vecdot", "aten.linalg_vecdot.default", "b* k, b* k -> b*", _vecdot, function("torch.linalg.vecdot", 2, ("dim", -1)),
        (Sample((_X, _X)), Sample((T((2, 4, 6)), T((4, 1))), (("dim", 1),))),
    ),
)  # fmt: skip
for _name, _target, _note, _rule, _emit, _samples in _PRODUCTS:
    contraction(_name, (_target,), _note, _rule, _emit, *_samples)


def _inner(call: Call) -> Rule:
    """``torch.inner``: the last dims are summed."""
    x, w = call.operands
    left = [f"m{i}" for i in range(len(x.shape) - 1)]
    right = [f"n{i}" for i in range(len(w.shape) - 1)]
    return with_linear(
        letters(f"{' '.join([*left, 'k'])}, {' '.join([*right, 'k'])} -> {' '.join([*left, *right])}", call), {0}, {1}
    )


def _tensordot(call: Call) -> Rule:
    """Any pairs of dims are summed."""
    x, w = call.operands
    ours, theirs = call.node.args[2:4]
    assert isinstance(ours, tuple)
    assert isinstance(theirs, tuple)
    summed = {dim % len(x.shape): f"k{i}" for i, dim in enumerate(ours)}
    other = {dim % len(w.shape): f"k{i}" for i, dim in enumerate(theirs)}
    left = [summed.get(i, f"m{i}") for i in range(len(x.shape))]
    right = [other.get(i, f"n{i}") for i in range(len(w.shape))]
    kept = [name for name in (*left, *right) if not name.startswith("k")]
    return with_linear(letters(f"{' '.join(left)}, {' '.join(right)} -> {' '.join(kept)}", call), {0}, {1})


def _emit_tensordot(ctx: EmitContext) -> str:
    return invoke("torch.tensordot", (*ctx.args[:2], ctx.args[2:4]))


contraction(
    "inner",
    ("aten.inner.default",),
    "m* k, n* k -> m* n*",
    _inner,
    function("torch.inner", 2),
    Sample((T((2, 4, 3)), T((6, 3)))),
    Sample((T((6,)), T((6,)))),
)
contraction(
    "tensordot",
    ("aten.tensordot.default",),
    "m* k*, k* n* -> m* n*",
    _tensordot,
    _emit_tensordot,
    Sample((T((2, 4, 3)), T((4, 6, 2)), (1, 0), (0, 2))),
    Sample((_X, _Y, (-1,), (0,))),
)
