"""Drawn strategies of a problem: any that can be carried out, whatever they cost, of which every choice has its turn.

A variable takes one of the choices that it has taken least so far. Once it has, the others give up what cannot stand beside it, and
so on from neighbour to neighbour, so that a dead end is rare; where one is met, the strategy is begun anew.
"""

from __future__ import annotations

import random

import numpy as np

from autopar.partitioner.problem import Problem

DRAWS = 20  # how often a strategy is begun anew before it is given up
_Allowed = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class Strategies:
    """Strategies of one problem; `taken` counts how often a variable took a choice."""

    def __init__(self, problem: Problem) -> None:
        self._near: list[list[tuple[int, _Allowed]]] = [[] for _ in problem.nodes]
        for edge in problem.edges:
            allowed = np.isfinite(edge.costs)
            self._near[edge.a].append((edge.b, allowed))
            self._near[edge.b].append((edge.a, allowed.T))
        self._possible = [np.isfinite(node.costs) for node in problem.nodes]
        self._narrow(self._possible, list(range(len(self._possible))))
        self.taken = [np.zeros(len(node.costs), int) for node in problem.nodes]

    @property
    def share(self) -> tuple[int, int]:
        """How many choices have been taken so far, of how many."""
        return sum(int((row > 0).sum()) for row in self.taken), sum(int(row.sum()) for row in self._possible)

    def drawn(self, draw: random.Random) -> tuple[int, ...] | None:
        """A choice for every variable; None where none is found."""
        for _ in range(DRAWS):
            left = list(self._possible)
            if all(self._choose(left, i, draw) for i in range(len(left))):
                chosen = tuple(int(row.argmax()) for row in left)
                for taken, choice in zip(self.taken, chosen, strict=True):
                    taken[choice] += 1
                return chosen
        return None

    def _choose(self, left: list[_Allowed], variable: int, draw: random.Random) -> bool:
        """Choose for a variable among what is left to it; whether something is left to all others."""
        choices, taken = np.flatnonzero(left[variable]), self.taken[variable]
        if len(choices) > 1:
            few = choices[taken[choices] == taken[choices].min()]
            left[variable] = np.zeros_like(left[variable])
            left[variable][draw.choice(few.tolist())] = True
            return self._narrow(left, [variable])
        return True

    def _narrow(self, left: list[_Allowed], changed: list[int]) -> bool:
        """Take away what cannot stand beside what is left to the changed variables; whether something is left to all."""
        while changed:
            variable = changed.pop()
            for other, allowed in self._near[variable]:
                kept = left[other] & allowed[left[variable]].any(0)
                if (kept != left[other]).any():
                    if not kept.any():
                        return False
                    left[other] = kept
                    changed.append(other)
        return True
