"""Einsum: the equation is the rule.

    bij,bjk->bik     every letter of the equation is one of ours; those that the result lacks are summed
    ...ij,jk         an ellipsis is any number of dims, aligned from the right; without an arrow the result has the
                     letters that occur once, in alphabetical order
    bii->bi          a letter twice in one tensor is a diagonal, which needs that dim whole

Flops are those of contracting the operands two at a time from the left.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from autopar.ops.record.emit_context import EmitContext
from autopar.ops.record.op import Sample, T, contraction
from autopar.ops.record.printing import invoke
from autopar.ops.record.rule import Call, Rule, with_linear

_DOTS = "..."


def equation_letters(equation: str, ndims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of every operand and of the result; those of an ellipsis are ``e0, e1, ...``.

    >>> equation_letters("...ij,jk", [3, 2])
    ([['e0', 'i', 'j'], ['j', 'k']], ['e0', 'i', 'k'])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [re.findall(r"\.\.\.|[A-Za-z]", term) for term in left.split(",")]
    spans = [ndim - len(term) + 1 if _DOTS in term else 0 for term, ndim in zip(terms, ndims, strict=True)]
    most = max(spans, default=0)
    if not arrow:
        count = Counter(name for term in terms for name in term if name != _DOTS)
        dots = [_DOTS] if any(_DOTS in term for term in terms) else []
        result = dots + sorted(name for name, times in count.items() if times == 1)
    else:
        result = re.findall(r"\.\.\.|[A-Za-z]", right)
    operands = [_opened(term, most, span) for term, span in zip(terms, spans, strict=True)]
    return operands, _opened(result, most, most)


def _opened(term: Sequence[str], most: int, span: int) -> list[str]:
    """The ellipsis of a term as the last `span` of the `most` letters that it may stand for."""
    dots = [f"e{i}" for i in range(most - span, most)]
    return [name for mark in term for name in (dots if mark == _DOTS else [mark])]


def _einsum(call: Call) -> Rule:
    terms, result = equation_letters(str(call.node.args[0]), [len(value.shape) for value in call.operands])
    extents: dict[str, int] = {}
    for term, value in zip(terms, call.operands, strict=True):
        for name, n in zip(term, value.shape, strict=True):
            extents[name] = max(n, extents.get(name, 1))
    operands = tuple(
        tuple((name,) if n == extents[name] else () for name, n in zip(term, value.shape, strict=True))
        for term, value in zip(terms, call.operands, strict=True)
    )
    twice = frozenset(name for term in terms for name, times in Counter(term).items() if times > 1)
    rule = Rule(operands, (tuple((name,) for name in result),), extents, twice)
    return with_linear(rule, *({i} for i in range(len(terms))))


def _emit_einsum(ctx: EmitContext) -> str:
    return invoke("torch.einsum", (ctx.args[0], *ctx.args[1]))


def _flops(call: Call, rule: Rule) -> float:
    """Two per point of the letters of each product of two, of which one is what the products before have left."""
    letters = [{name for dim in dims for name in dim} for dims in rule.operands]
    kept = {name for dim in rule.results[0] for name in dim}
    have, total = letters[0], 0.0
    for i, more in enumerate(letters[1:], 2):
        total += 2.0 * math.prod(rule.extents[name] for name in have | more)
        have = (have | more) & kept.union(*letters[i:])
    return total or float(call.operands[0].numel)


contraction(
    "einsum",
    ("aten.einsum.default",),
    "the equation",
    _einsum,
    _emit_einsum,
    Sample(("bik,bkj->bij", (T((2, 3, 4)), T((2, 4, 6))))),
    Sample(("bhtd,hd->bth", (T((2, 2, 3, 4)), T((2, 4))))),
    Sample(("...ij,jk", (T((2, 3, 4)), T((4, 6))))),
    Sample(("...ij,...jk->...ik", (T((2, 1, 3, 4)), T((3, 4, 2))))),
    Sample(("bii->bi", (T((4, 3, 3)),))),
    Sample(("ij,jk,kl->il", (T((4, 2)), T((2, 6)), T((6, 3))))),
    Sample(("bixy,ioxy->boxy", (T((2, 4, 3, 2), "complex"), T((4, 6, 3, 2), "complex")))),
    Sample(("ij->", (T((4, 6)),))),
    flops=_flops,
)
