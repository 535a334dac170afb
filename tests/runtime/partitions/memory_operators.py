"""The five operations on memory that every communication consists of, as linear operators with their adjoints.

Memory is a vector x; a and b are disjoint sets of its entries, of equal size where entries of one go to the other.
In the basis (x_a, x_b):

    allocate    A_b  x_a -> (x_a, 0)       [I; 0]          A_b* = D_b
    deallocate  D_b  (x_a, x_b) -> x_a     [I 0]           D_b* = A_b
    clear       K_b  x_b := 0              [I 0; 0 0]      K_b* = K_b
    add         S_ab x_b := x_b + x_a      [I 0; I I]      S_ab* = [I I; 0 I] = S_ba
    copy        C_ab = S_ab K_b            [I 0; I 0]      C_ab* = K_b S_ba: add b to a, then clear b
    move        M_ab = K_a S_ab K_b        [0 0; I 0]      M_ab* = K_b S_ba K_a = M_ba

and (F G)* = G* F*. These are section 2 of Hewett and Grady, arXiv 2006.03108. The derivations of the distributed
primitives are written in these letters, a and b being then the memories of different ranks: *the adjoint of a copy is
a sum*, from which all else follows. They are not how the primitives run; they are what the tests hold them to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A linear operator on memory vectors."""

    def __call__(self, x: Tensor) -> Tensor:
        """The operator applied to the vector `x`, which is left as it is."""

    @property
    def adjoint(self) -> Operator:
        """The adjoint in the Euclidean inner product."""


@dataclass(frozen=True, slots=True)
class Allocate:
    """A_b: new entries, zero, that stand at `b` in the result; the others keep their order."""

    b: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """``(x, 0_b)``."""
        y = x.new_zeros(len(x) + len(self.b))
        y[_others(self.b, len(y))] = x
        return y

    @property
    def adjoint(self) -> Deallocate:
        """D_b."""
        return Deallocate(self.b)


@dataclass(frozen=True, slots=True)
class Deallocate:
    """D_b: without the entries `b`."""

    b: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The entries that are left, in their order."""
        return x[_others(self.b, len(x))]

    @property
    def adjoint(self) -> Allocate:
        """A_b."""
        return Allocate(self.b)


@dataclass(frozen=True, slots=True)
class Clear:
    """K: the entries `b` become zero."""

    b: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with zeros in `b`."""
        y = x.clone()
        y[list(self.b)] = 0
        return y

    @property
    def adjoint(self) -> Clear:
        """Itself."""
        return self


@dataclass(frozen=True, slots=True)
class Add:
    """S: the entries `a` are added to the entries `b`, one by one."""

    a: tuple[int, ...]
    b: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with ``x[a]`` added in `b`."""
        y = x.clone()
        y[list(self.b)] += x[list(self.a)]
        return y

    @property
    def adjoint(self) -> Add:
        """The same the other way round."""
        return Add(self.b, self.a)


@dataclass(frozen=True, slots=True)
class Chain:
    """The product of operators as it is written: the last one is applied first."""

    factors: tuple[Operator, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """All factors applied, from the right."""
        for factor in reversed(self.factors):
            x = factor(x)
        return x

    @property
    def adjoint(self) -> Chain:
        """The adjoints in reverse."""
        return Chain(tuple(factor.adjoint for factor in reversed(self.factors)))


def _others(b: tuple[int, ...], size: int) -> Tensor:
    """Which of so many entries are not in `b`, as a mask."""
    others = torch.ones(size, dtype=torch.bool)
    others[list(b)] = False
    return others


def copy(a: Sequence[int], b: Sequence[int]) -> Chain:
    """C_ab = S_ab K_b, in place."""
    return Chain((Add(tuple(a), tuple(b)), Clear(tuple(b))))


def move(a: Sequence[int], b: Sequence[int]) -> Chain:
    """M_ab = K_a S_ab K_b, in place."""
    return Chain((Clear(tuple(a)), Add(tuple(a), tuple(b)), Clear(tuple(b))))


def matrix(operator: Operator, size: int) -> Tensor:
    """The operator's matrix on memory of `size` entries: its columns are the images of the unit vectors."""
    return torch.stack([operator(unit) for unit in torch.eye(size, dtype=torch.float64)], 1)
