"""Numbers of rows that only the step knows, looked at before they are used: no shape of a program can follow them."""

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
        fault = f"it would be shorter: {size} rows are there"
        rule = (
            "one program serves all steps, so a slice that begins where a tensor says has the same length in every step"
        )
        fix = (
            "take as many rows as divide the whole, and go on with ptr = (ptr + n) % size, from 0 on; or count rows "
            "around the end, rows = (ptr + torch.arange(n)) % size; x[rows] = y"
        )
        raise ProgramMismatch(refusal(f"the slice {first}:{first + n}", fault, rule, fix=fix))
    return torch.arange(first, first + n, device=start.device)


def within(index: Tensor, size: int) -> Tensor:
    """The index. Raises ProgramMismatch where a number in it is none of `size` rows.

    >>> within(torch.tensor([4, 0]), 5)
    tensor([4, 0])
    """
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        fault = f"there are {size} rows, and the numbers of the step are from {int(index.min())} to {int(index.max())}"
        rule = "one program serves all steps, so the result has the same length in every step"
        fix = "ask for more: torch.bincount(x, minlength=n) has to be told of the largest number that there will be"
        raise ProgramMismatch(refusal("a count of numbers", fault, rule, fix=fix))
    return index
