"""Rows that begin where a tensor says: the numbers of a slice ``x[ptr : ptr + n]`` of which ptr is kept in a buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from autopar.errors import ProgramMismatch, refusal


def rows_from(start: Tensor, n: int, size: int) -> Tensor:
    """The rows ``start, ..., start + n - 1`` of a dim of `size` rows. Raises ProgramMismatch where they are not all in it.

    >>> rows_from(torch.tensor(4), 3, 8)
    tensor([4, 5, 6])
    """
    first = int(start)
    if not 0 <= first <= size - n:
        given = f"it would be shorter: {size} rows are there"
        rule = (
            "one program serves all steps, so a slice that begins where a tensor says has the same length in every step"
        )
        fix = (
            "take as many rows as divide the whole, and go on with ptr = (ptr + n) % size, from 0 on; or count rows "
            "around the end, rows = (ptr + torch.arange(n)) % size; x[rows] = y"
        )
        raise ProgramMismatch(refusal(f"the slice {first}:{first + n}", given, rule, fix=fix))
    return torch.arange(first, first + n, device=start.device)
