"""The first values of what a model function makes: made by it, tensor after tensor, or read from the folder that it names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import prod

import torch
from torch import Tensor, nn

from autopar.errors import CheckpointError, refusal
from autopar.hugging_face.pretrained import Pretrained
from autopar.runtime.parameters import weight_files
from autopar.runtime.parameters.deferred_init import initial_values
from autopar.runtime.parameters.sources import Parted, Stored
from autopar.runtime.program.plan_reader import TensorSpec

_ROWS_BYTES = 16 << 20


def function_values(
    model: Callable[[], nn.Module], seed: int, needed: Collection[str]
) -> Iterator[tuple[str, Tensor | Parted]]:
    """Values by name. Of a `Pretrained` those that are `needed` are read by parts, and what its weights may lack is made.

    Raises CheckpointError with everything that does not fit.
    """
    if not isinstance(model, Pretrained) or not model.weights:
        yield from initial_values(model, seed)
        return
    where, tensors = str(model.folder), weight_files.opened(model.folder)
    naming, places = model.naming(), dict[str, tuple[str, ...]]()
    specs: dict[int, TensorSpec] = {}
    for name, (one, adapted) in naming.tensors.items():
        known = specs.get(id(one))
        aliases = () if known is None else (*known.aliases, name)
        lead = name if known is None else known.name
        specs[id(one)] = TensorSpec(lead, tuple(one.shape), one.dtype, aliases=aliases)
        places[lead] = adapted
    matches = weight_files.matched(
        where, tensors, specs.values(), naming.change, model.allow_missing, model.allow_unexpected
    )
    weight_files.conversions(where, matches, None)
    read: set[str] = set()
    for item, stored in matches.found.items():
        _check_alike(where, {name: tensors[name] for name, _ in stored})
        read.update(places[item.name])
        yield from ((name, stored[0][1]) for name in places[item.name])
    if any(name not in read for name in needed):
        yield from (pair for pair in initial_values(model, seed) if pair[0] not in read)


def with_constants(
    values: Iterable[tuple[str, Tensor | Parted]], constants: Iterable[tuple[str, Tensor | Parted]]
) -> Iterator[tuple[str, Tensor | Parted]]:
    """Values, and of what is no part of the state those that the program was compiled with, where the model itself has none.

    What it draws for such a buffer follows the seed so, as everything else that it draws. Tables that forward makes anew, of other
    sizes, are the program's.
    """
    known = dict(constants)
    for name, value in values:
        if name not in known or tuple(known[name].shape) == tuple(value.shape):
            yield name, value
            known.pop(name, None)
    yield from known.items()


def _check_alike(where: str, stored: Mapping[str, Stored]) -> None:
    """Raise CheckpointError where names that are tied in the model have other values; some rows at a time are read."""
    (first, one), *others = stored.items()
    for name, other in others:
        rows = max(1, _ROWS_BYTES // max(1, prod(one.shape[1:]) * one.dtype.itemsize))
        for start in range(0, one.shape[0] if one.shape else 1, rows):
            part = slice(start, start + rows) if one.shape else ...
            if not torch.equal(one.slice[part], other.slice[part]):
                rule = "names that are tied in the model have one value"
                fix = "config={'tie_word_embeddings': False} where they are not meant to be tied"
                raise CheckpointError(refusal(where, f"{first} and {name} differ", rule, fix=fix))
