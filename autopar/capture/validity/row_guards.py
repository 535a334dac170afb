"""From the guards of a symbolic export to the numbers of rows for which it holds.

A guard is a relation in the number n of rows that was taken to be true while forward was traced. What can be solved:

    p(n) rel 0          p a polynomial: a bound, a gap, or single numbers
    q(n mod m) rel c    a relation of remainders: it holds for n if it does for n + m

Any other guard is unsolved (`Unproved`), and the program is then for the traced number of rows only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import sympy
from torch.utils._sympy.functions import Mod, PythonMod

from autopar.ir.batch_sizes import ANY, Sizes

N = sympy.Symbol("n", integer=True, positive=True)  # the number of rows
_MOST = 1000  # the largest period, and the most numbers to look at for a polynomial of degree 2 or more
_FEW = 8  # single numbers that are left out


class Unproved(Exception):
    """Why a model's program is for the number of rows that it was captured with."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A relation in `N`, and the line that asked for it."""

    relation: sympy.Basic
    reason: str


def sizes(guards: Iterable[Guard]) -> Sizes:
    """The numbers of rows for which all guards hold. Raises Unproved for a guard that is none of those above."""
    allowed = ANY
    for guard in guards:
        for relation in _conjuncts(guard.relation):
            more = _limits(relation, guard)
            if more != ANY:
                allowed = _both(allowed, replace(more, why=(guard.reason,)), guard)
    return allowed


def _conjuncts(relation: sympy.Basic) -> tuple[sympy.Basic, ...]:
    return relation.args if isinstance(relation, sympy.And) else (relation,)


def _limits(relation: sympy.Basic, guard: Guard) -> Sizes:
    if relation == sympy.true:
        return ANY
    if isinstance(relation, sympy.core.relational.Relational):
        difference = sympy.expand(relation.lhs - relation.rhs)
        if difference.is_polynomial(N):
            return _polynomial(relation.func, sympy.Poly(difference, N), guard)
        if _periods(relation):
            return _periodic(relation, guard)
    raise Unproved(_said(guard))


def _said(guard: Guard) -> str:
    return f"{guard.reason} asks for `{guard.relation}`, n the number of rows"


def _polynomial(relation: type[sympy.Basic], poly: sympy.Poly, guard: Guard) -> Sizes:
    factors = [Fraction(str(coeff)) for coeff in poly.all_coeffs()]
    if len(factors) == 2:
        return _line(relation, factors[0], factors[1], guard)
    # beyond the bound of Cauchy a polynomial has no roots, and keeps its sign
    bound = 1 + math.ceil(max((abs(factor / factors[0]) for factor in factors[1:]), default=0))
    if bound > _MOST:
        raise Unproved(_said(guard))

    def holds(n: int) -> bool:
        value = sum(factor * n**power for power, factor in enumerate(reversed(factors)))
        return bool(relation(sympy.Rational(value.numerator, value.denominator), 0))

    true, tail = [n for n in range(1, bound + 1) if holds(n)], holds(bound + 1)
    least = true[0] if true else bound + 1
    most = 0 if tail else true[-1] if true else -1
    without = tuple(n for n in range(least, (most or bound) + 1) if n not in true)
    if most < 0 or len(without) > _FEW:
        raise Unproved(_said(guard))
    return Sizes(least, most, without=without)


def _line(relation: type[sympy.Basic], slope: Fraction, start: Fraction, guard: Guard) -> Sizes:
    """slope n + start rel 0: everything happens at the root."""
    root = -start / slope
    whole = root.denominator == 1 and root >= 1
    if relation is sympy.Ne:
        return Sizes(without=(int(root),)) if whole else ANY
    if relation is sympy.Eq:
        allowed = Sizes(int(root), int(root)) if whole else Sizes(1, -1)
    elif (relation in (sympy.Ge, sympy.Gt)) == (slope > 0):
        allowed = Sizes(max(1, math.floor(root) + 1 if relation in (sympy.Gt, sympy.Lt) else math.ceil(root)))
    else:
        allowed = Sizes(most=(math.ceil(root) - 1 if relation in (sympy.Gt, sympy.Lt) else math.floor(root)) or -1)
    if allowed.most < 0:
        raise Unproved(_said(guard))
    return allowed


def _periods(relation: sympy.Basic) -> list[int]:
    """The moduli of a relation in which n stands only in remainders; none where it stands elsewhere."""
    remainders = relation.atoms(Mod, PythonMod, sympy.Mod)
    moduli = [remainder.args[1] for remainder in remainders]
    plain = relation.xreplace({remainder: sympy.Dummy() for remainder in remainders})
    fits = all(part.args[1].is_Integer and part.args[1] > 0 and part.args[0].is_polynomial(N) for part in remainders)
    return [int(modulus) for modulus in moduli] if fits and N not in plain.free_symbols else []


def _periodic(relation: sympy.Basic, guard: Guard) -> Sizes:
    period = math.lcm(*_periods(relation))
    if period > _MOST:
        raise Unproved(_said(guard))
    return _class([n for n in range(period) if relation.subs(N, n + period) == sympy.true], period, guard)


def _class(remainders: list[int], period: int, guard: Guard) -> Sizes:
    """The one class of remainders that these are: of the smallest modulus for which they are one."""
    for modulus in (divisor for divisor in range(1, period + 1) if period % divisor == 0):
        if remainders and remainders == list(range(remainders[0] % modulus, period, modulus)):
            return Sizes(multiple=modulus, remainder=remainders[0] % modulus)
    raise Unproved(_said(guard))


def _both(first: Sizes, second: Sizes, guard: Guard) -> Sizes:
    period = math.lcm(first.multiple, second.multiple)
    if period > _MOST:
        raise Unproved(_said(guard))
    wishes = [(first.multiple, first.remainder), (second.multiple, second.remainder)]
    common = _class([n for n in range(period) if all(n % m == r for m, r in wishes)], period, guard)
    return Sizes(
        max(first.least, second.least),
        min(first.most or second.most, second.most or first.most),
        common.multiple,
        common.remainder,
        tuple(sorted({*first.without, *second.without})),
        tuple(dict.fromkeys((*first.why, *second.why))),
    )
