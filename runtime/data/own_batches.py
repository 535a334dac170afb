"""The batches of a model file whose ``batches(part)`` reads this rank's part only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from autopar.errors import ConfigError, refusal
from autopar.runtime.data.input_part import InputPart


def own_batches(
    batches: Callable[[InputPart], Iterator[Any]], part: Callable[[], InputPart], where: str
) -> Iterator[Any]:
    """The batches, again and again. Raises ConfigError where there are none.

    `part` is asked before every batch: where boundaries have moved, what a loader has fetched ahead is of rows that are no longer
    this rank's, and so ``batches(part)`` is called anew, with `part.start` as the batch to go on with.
    """
    epoch, start = 0, 0
    while True:
        asked = part()
        for batch in batches(replace(asked, epoch=epoch, start=start)):
            yield batch
            start += 1
            if part().axes != asked.axes:
                break
        else:
            if not start:
                raise ConfigError(refusal(where, "batches(part) yields nothing", "it yields inputs to train on"))
            epoch, start = epoch + 1, 0
