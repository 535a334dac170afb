"""The batch among a model's inputs, and the same inputs with more rows.

The batch is dim 0 of the first input that has dims, and of every other input whose dim 0 is as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch

from autopar.capture.build import Examples


def rows_of(examples: Examples) -> int:
    """How many rows the batch has; 0 where no input has any, 1 where it may as well be no batch."""
    return next((value.shape[0] for value in _values(examples) if value.dim()), 0)


def with_more_rows(examples: Examples) -> Examples:
    """The same inputs with a prime number of rows, more than there are; the first ones are repeated."""
    rows = rows_of(examples)
    more = next(n for n in itertools.count(rows + 1) if all(n % k for k in range(2, n)))

    def grown(value: object) -> object:
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows:
            return value
        return torch.cat([value] * -(-more // rows))[:more]

    if isinstance(examples, Mapping):
        return {name: grown(value) for name, value in examples.items()}
    return tuple(map(grown, examples))


def _values(examples: Examples) -> Iterator[torch.Tensor]:
    values = examples.values() if isinstance(examples, Mapping) else examples
    return (value for value in values if isinstance(value, torch.Tensor))
