"""Matrix products: one letter per dim, and the contracted letter is missing from the result.

    y[b, m, n] = sum_k x[b, m, k] w[b, k, n]

Splitting k gives partial sums, splitting m or n a part of the result, splitting a batch letter a batch of smaller
products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autopar.ops.op import Local, Op, Sample, T, register
from autopar.ops.rule import Call, Dims, Rule, letters, with_linear
from autopar.ops.text import atom, function, invoke, literal


def _matmul(call: Call) -> Rule:
    """``torch.matmul``: vectors, matrices and batches, batch dims aligned from the right and broadcast."""
    x, w = call.operands
    shape = call.results[0].shape
    inner = (len(x.shape) > 1) + (len(w.shape) > 1)
    batch = tuple(f"b{i}" for i in range(len(shape) - inner))
    extents = dict(zip(batch, shape, strict=False)) | {"k": x.shape[-1]}
    left: Dims = (("k",),)
    right: Dims = (("k",),)
    result: Dims = tuple((name,) for name in batch)
    if len(x.shape) > 1:
        extents["m"] = x.shape[-2]
        left = (*_batch(x.shape[:-2], batch, extents), ("m",), ("k",))
        result = (*result, ("m",))
    if len(w.shape) > 1:
        extents["n"] = w.shape[-1]
        right = (*_batch(w.shape[:-2], batch, extents), ("k",), ("n",))
        result = (*result, ("n",))
    return with_linear(Rule((left, right), (result,), extents), {0}, {1})


def _batch(shape: tuple[int, ...], names: tuple[str, ...], extents: Mapping[str, int]) -> Dims:
    used = names[len(names) - len(shape) :]
    return tuple((name,) if n == extents[name] else () for name, n in zip(used, shape, strict=True))


def _emit_matmul(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return f"{atom(args[0])} @ {atom(args[1])}"


register(
    Op(
        name="matmul",
        targets=("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default"),
        note="b* m k, b* k n -> b* m n",
        rule=_matmul,
        emit=_emit_matmul,
        work="matmul",
        backward=2.0,
        samples=(
            Sample((T((4, 6)), T((6, 5)))),
            Sample((T((2, 3, 4, 6)), T((3, 6, 4)))),
            Sample((T((2, 4, 6)), T((6,)))),
            Sample((T((6,)), T((6, 4)))),
            Sample((T((1, 4, 6)), T((3, 6, 2)))),
            Sample((T((6,)), T((6,))), target="aten.dot.default"),
        ),
    )
)


def _addmm(call: Call) -> Rule:
    """y = beta * bias + alpha * a @ b, the bias a row or a matrix or broadcast."""
    product = _matmul(replace(call, operands=call.operands[1:]))
    bias = call.operands[0].shape
    names = product.results[0][len(product.results[0]) - len(bias) :]
    dims = tuple(name if n == product.extents[name[0]] else () for name, n in zip(names, bias, strict=True))
    rule = replace(product, operands=(dims, *product.operands), addends=frozenset({0}))
    return with_linear(rule, {0, 1}, {0, 2})


def _emit_addmm(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
    product = f"{atom(args[1])} @ {atom(args[2])}"
    scaled = product if alpha == 1 else f"{literal(alpha)} * ({product})"
    bias = atom(args[0]) if beta == 1 else f"{literal(beta)} * {atom(args[0])}"
    return f"{bias} + {scaled}"


register(
    Op(
        name="addmm",
        targets=("aten.addmm.default", "aten.baddbmm.default"),
        note="n, m k, k n -> m n",
        rule=_addmm,
        emit=_emit_addmm,
        work="matmul",
        backward=2.0,
        samples=(
            Sample((T((4,)), T((5, 6)), T((6, 4)))),
            Sample((T((5, 1)), T((5, 6)), T((6, 4))), (("alpha", 0.5), ("beta", 2))),
            Sample((T((2, 3, 4)), T((2, 3, 6)), T((2, 6, 4))), target="aten.baddbmm.default"),
        ),
    )
)


def _einsum(call: Call) -> Rule:
    """The equation is the rule. Raises ValueError for an ellipsis, an implicit result, or a diagonal."""
    equation = str(call.node.args[0]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in (*terms, right)):
        raise ValueError(f"einsum {equation!r}")
    extents: dict[str, int] = {}
    for term, value in zip(terms, call.operands, strict=True):
        for name, n in zip(term, value.shape, strict=True):
            extents[name] = max(n, extents.get(name, 1))
    operands = tuple(
        tuple((name,) if n == extents[name] else () for name, n in zip(term, value.shape, strict=True))
        for term, value in zip(terms, call.operands, strict=True)
    )
    rule = Rule(operands, (tuple((name,) for name in right),), extents)
    return with_linear(rule, *({i} for i in range(len(terms))))


def _emit_einsum(call: Call, rule: Rule, local: Local, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    return invoke("torch.einsum", (args[0], *args[1]))


register(
    Op(
        name="einsum",
        targets=("aten.einsum.default",),
        note="the equation",
        rule=_einsum,
        emit=_emit_einsum,
        work="matmul",
        backward=2.0,
        samples=(
            Sample(("bik,bkj->bij", (T((2, 3, 4)), T((2, 4, 6))))),
            Sample(("bhtd,hd->bth", (T((2, 2, 3, 4)), T((2, 4))))),
        ),
    )
)


def _outer(call: Call) -> Rule:
    return with_linear(letters("m, n -> m n", call), {0}, {1})


register(
    Op(
        name="outer",
        targets=("aten.outer.default",),
        note="m, n -> m n",
        rule=_outer,
        emit=function("torch.outer", 2),
        samples=(Sample((T((4,)), T((6,)))),),
    )
)
