"""Sums, products and relations of torch's symbols, each computed once: with a symbol for the rows of a batch, torch asks
of every tensor dozens of times the same, to know how it lies in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import sympy
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.experimental.sym_node import SymNode

from autopar.capture.tracing.patches import patched

# what follows from the two expressions alone; a remainder, for one, follows from bounds that torch learns
_METHODS = ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "sym_max", "sym_min")
_PLAIN = (int, bool, float)


def remembering() -> AbstractContextManager[None]:
    """While active, torch computes with symbols so."""
    node: Any = SymNode
    others: dict[str, Any] = {f"_{name}": _remembered(getattr(node, f"_{name}")) for name in _METHODS}
    others |= {"expr": property(_once(node.expr.fget)), "maybe_as_int": _whole_number()}
    return patched((node, name, other) for name, other in others.items())


def _remembered(really: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The method, which computes anew where calls are traced, or where its result could follow from anything else.

    Every result is an object of its own, since torch tells them apart.
    """
    known: dict[object, Any] = {}

    def method(self: Any, other: Any) -> Any:  # noqa: ANN401 (nodes of symbols)
        env = self.shape_env
        plain = type(self._hint) in _PLAIN and type(other._hint) in _PLAIN and env is not None
        if not plain or env._translation_validation_enabled or get_proxy_mode() is not None:
            return really(self, other)
        key = (*_identity(self), *_identity(other), env, env._replacements_version_counter)
        if (computed := known.get(key)) is None:
            computed = known[key] = really(self, other)
        return SymNode(
            computed._expr,
            env,
            computed.pytype,
            computed._hint,
            computed.constant,
            computed.fx_node,
            optimized_summation=computed._optimized_summation,
        )

    return method


def _identity(node: Any) -> tuple[object, ...]:  # noqa: ANN401 (a node of symbols)
    """All that says what a node is; True and 1 are equal, and told apart by the type."""
    return node._expr, node._hint, node.constant, node.pytype, node._optimized_summation


def _once(really: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``node.expr``, with what torch has learnt of its symbols put in, looked up once for all that it has learnt."""

    def expr(self: Any) -> Any:  # noqa: ANN401 (a node of symbols; an expression)
        env = self.shape_env
        if env is None:
            return really(self)
        learnt = env._replacements_version_counter
        if learnt == 0:
            return self._expr
        if self._expr_cache is None or self._expr_ver != learnt:
            self._expr_cache, self._expr_ver = really(self), learnt
        return self._expr_cache

    return expr


def _whole_number() -> Callable[[Any], int | None]:
    """``node.maybe_as_int``, which asks of every expression once whether it is a number."""
    known: dict[sympy.Basic, int | None] = {}

    def number(self: Any) -> int | None:  # noqa: ANN401 (a node of symbols)
        expr = self.expr
        if type(expr) is int:
            return int(expr)
        if expr not in known:
            known[expr] = int(expr) if expr.is_number else None
        return known[expr]

    return number
