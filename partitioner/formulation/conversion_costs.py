"""What conversions cost between all options of two variables, worked out once for all tensors and readers that are alike.

A list of options is known by its identity: those of calls with the same strategies are one object (`operands`,
`results`), so that the calls of eighty blocks ask for the same few matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel.redistribution import conversion_matrix
from autopar.ir.graph import ITEMSIZE, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts, Shard
from autopar.ir.machine import Machine
from autopar.partitioner.formulation.strategies import CallStrategies, operand_layouts, result_layouts, unique

Matrix = NDArray[np.float64]
Options = Sequence[Layouts]


@dataclass(frozen=True, slots=True)
class Conversions:
    """Prices on one grid and machine; what was asked before is remembered."""

    grid: GridShape
    machine: Machine
    lists: dict[tuple[int, str, int], tuple[object, Options]] = field(default_factory=dict)
    distinct: dict[int, tuple[Options, tuple[Layouts, ...], list[int]]] = field(default_factory=dict)
    matrices: dict[tuple[object, ...], tuple[Options, Options, Matrix]] = field(default_factory=dict)
    once: dict[tuple[Layouts, ...], tuple[Layouts, ...]] = field(default_factory=dict)  # equal lists are one object
    tables: dict[tuple[object, ...], Matrix] = field(default_factory=dict)

    def operands(self, item: CallStrategies, operand: int) -> Options:
        """Per strategy of a call, the layouts in which it asks for an operand."""
        key = (id(item.strategies), "operand", operand)
        if key not in self.lists:
            self.lists[key] = item.strategies, tuple(operand_layouts(strategy, operand) for strategy in item.strategies)
        return self.lists[key][1]

    def results(self, item: CallStrategies, result: int) -> Options:
        """Per strategy of a call, the layouts in which it yields a result."""
        key = (id(item.strategies), "result", result)
        if key not in self.lists:
            self.lists[key] = item.strategies, tuple(result_layouts(strategy, result) for strategy in item.strategies)
        return self.lists[key][1]

    def seconds(self, value: Value, yields: Options, wants: Options, runs: int = 1) -> Matrix:
        """Seconds of converting a value, forward and adjoint, from every option of its maker to every option of a reader.

        Forward runs so many times, the adjoint once.
        """
        key = (id(yields), id(wants), value.shape, value.dtype, value.differentiable, runs)
        if key not in self.matrices:
            rows, row = self._distinct(yields)
            columns, column = self._distinct(wants)
            costs = self._table(value, rows, columns, runs)
            self.matrices[key] = yields, wants, costs[np.ix_(row, column)]
        return self.matrices[key][2]

    def _table(self, value: Value, rows: tuple[Layouts, ...], columns: tuple[Layouts, ...], runs: int) -> Matrix:
        """The prices between distinct layouts."""
        key = (id(rows), id(columns), value.shape, value.dtype, value.differentiable, runs)
        if key not in self.tables:
            tensor = (value.shape, ITEMSIZE[value.dtype], value.differentiable, rows, columns)
            self.tables[key] = conversion_matrix(*tensor, self.grid, self.machine, runs)
        return self.tables[key]

    def whole(self, yields: Options, wants: Options) -> Matrix:
        """Infinite where a parameter that lies in parts over some axis would be made whole over it."""
        key = (id(yields), id(wants), "whole")
        if key not in self.matrices:
            before, after = (
                np.array([[isinstance(layout, Shard) for layout in layouts] for layouts in side], bool)
                for side in (yields, wants)
            )
            lost = (before[:, None, :] & ~after[None, :, :]).any(axis=2)
            self.matrices[key] = yields, wants, np.where(lost, np.inf, 0.0)
        return self.matrices[key][2]

    def _distinct(self, options: Options) -> tuple[tuple[Layouts, ...], list[int]]:
        """The distinct layouts of a list, and where each option is among them."""
        if id(options) not in self.distinct:
            once = tuple(unique(options))
            once = self.once.setdefault(once, once)
            place = {layouts: i for i, layouts in enumerate(once)}
            self.distinct[id(options)] = options, once, [place[layouts] for layouts in options]
        return self.distinct[id(options)][1:]
