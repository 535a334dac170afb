"""Remembered sums of symbols are those that torch computes, and belong to what torch knew of the symbols."""

import itertools
import operator

import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from autopar.capture.tracing.memoized_symbols import remembering

OPERATORS = [getattr(operator, name) for name in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")]
OPERATORS += [torch.sym_max, torch.sym_min]


def symbol(env, name, hint):
    expression = env.create_symbol(hint, ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC)
    return env.create_symintnode(expression, hint=hint)


def results(env, n, m):
    """Every operator on every pair, twice."""
    numbers = [n, m, n * m, 2, 3, n * 2 + 1, m - 1]
    pairs = [(a, b) for a, b in itertools.product(numbers, numbers) if not (isinstance(a, int) and isinstance(b, int))]
    return [one for _ in range(2) for a, b in pairs for one in [each(a, b) for each in OPERATORS]]


def spelled(found):
    return [(type(one), str(one.node.expr), one.node.hint, one.node.pytype, one.node.maybe_as_int()) for one in found]


def test_results_are_those_of_torch_and_objects_of_their_own():
    env = ShapeEnv()
    n, m = symbol(env, "n", 4), symbol(env, "m", 6)
    own = spelled(results(env, n, m))
    before = dict(vars(SymNode))
    with remembering():
        found = results(env, n, m)
        assert spelled(found) == own
        assert len({id(one.node) for one in found}) == len(found)
    assert dict(vars(SymNode)) == before


def test_what_torch_learns_of_a_symbol_is_put_into_what_is_known():
    env = ShapeEnv()
    n, m = symbol(env, "n", 4), symbol(env, "m", 4)
    with remembering():
        before = n + m
        relation = n * 2 == m * 2
        assert n == m  # torch takes it for true from now on
        assert len((n + m).node.expr.free_symbols) == len(before.node.expr.free_symbols) == 1
        assert bool(relation)
        assert bool(n * 2 == m * 2)
        assert (n - m).node.maybe_as_int() == 0
