"""What a call of a program returns that gives more than the loss, and how to find a part of what a model returns.

    out = parallel(**batch)
    out.loss.backward()
    correct = (out.logits.argmax(-1) == batch["labels"]).sum()

An output stays in parts, as the program computes it, until somebody reads it: then all ranks put it together, so every
rank has to read it. Unread outputs cost nothing. Whole outputs are values: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor

from autopar.errors import nearest
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_bounds import ShardBounds, gather_all
from autopar.runtime.parameters.shards import Runs, rows_of

# this rank's part, and how the whole is cut, the outermost axis first
Part = tuple[Tensor, Sequence[tuple[Axis, ShardBounds]]]


@dataclass(frozen=True, slots=True)
class OutputRegion:
    """A part of an output, the rows of every dim of the whole that it is, and the axes over which others have other parts."""

    part: Tensor
    rows: tuple[Runs, ...]
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class OutputParts:
    """An output, as the `parts` of one call, or of every micro-batch, which `join` makes one.

    Getting the parts is collective where replicas have computed different micro-batches.
    """

    parts: Callable[[], Sequence[Part]]
    join: Callable[[Sequence[Tensor]], Tensor] = itemgetter(0)
    dim: int | None = None  # along which the parts of micro-batches follow each other in the whole, if they do

    def own(self) -> Tensor:
        """This rank's part."""
        return self.join([part for part, _ in self.parts()])

    def whole(self) -> Tensor:
        """The whole on every rank. Collective."""
        return self.join([gather_all(*part) for part in self.parts()])

    def regions(self) -> list[OutputRegion]:
        """Where this rank's parts are in the whole: what it would write of it. Collective where the parts are, and where the
        whole is no arrangement of parts, as a mean over micro-batches is none.
        """
        parts = self.parts()
        if len(parts) > 1 and self.dim is None:
            whole = self.join([gather_all(*part) for part in parts])
            return [OutputRegion(whole, tuple(((0, n),) for n in whole.shape), ())]
        found, first = [], 0
        for part, every in parts:
            shape = list(part.shape)
            for _, cut in reversed(every):
                shape[cut.dim] = cut.extent
            runs = list(rows_of(shape, every))
            if self.dim is not None:
                runs[self.dim] = tuple((first + start, first + stop) for start, stop in runs[self.dim])
                first += shape[self.dim]
            found.append(OutputRegion(part, tuple(runs), tuple(axis for axis, _ in every)))
        return found


class Outputs:
    """The loss and the outputs of one call, by attribute, key or position, as in what the model itself returns.

    Where the model returns a tuple, iterating gives its values in order, otherwise names. Reading an output for the first
    time is collective. A prediction has no loss.
    """

    def __init__(self, path: str, loss: Tensor | None, parts: Mapping[str, OutputParts]) -> None:
        self._loss = loss
        self._path = path  # where the model returns its loss
        self._parts = dict(parts)
        self._whole: dict[str, Tensor] = {}

    @property
    def loss(self) -> Tensor:
        """The loss of the whole batch. Raises AttributeError where there is none."""
        if self._loss is None:
            raise AttributeError("a prediction has no loss: call the model itself, with its labels")
        return self._loss

    @property
    def in_parts(self) -> Mapping[str, OutputParts]:
        """What this rank has of every output, by name."""
        return self._parts

    def part(self, name: str | int) -> Tensor:
        """This rank's part of an output, as the program returned it."""
        return self._parts[str(name)].own()

    def keys(self) -> list[str]:
        """The names, in order; positions where the model returns a tuple."""
        names = [] if self._loss is None else [self._path or "loss"]
        names += [name for name in self._parts if name != self._path]
        return sorted(names, key=int) if all(name.isdecimal() for name in names) else names

    def __getitem__(self, name: str | int) -> Tensor:
        """The loss, or an output put together on every rank."""
        name = str(name)
        if self._loss is not None and (name == self._path or (name == "loss" and name not in self._parts)):
            return self._loss
        if name not in self._parts:
            known = self.keys()
            raise KeyError(f"no output {name!r}{nearest(name, known)}: compiled for {', '.join(known)}")
        if name not in self._whole:
            self._whole[name] = self._parts[name].whole()
        return self._whole[name]

    def __getattr__(self, name: str) -> Tensor:
        """An output by its name."""
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"{error.args[0]}; name more with outputs=(...), or --return") from None

    def __iter__(self) -> Iterator[Any]:
        """The values of a tuple, otherwise the names."""
        names = self.keys()
        return iter([self[name] for name in names] if all(name.isdecimal() for name in names) else names)

    def __len__(self) -> int:
        """How many there are, the loss included."""
        return len(self.keys())

    def __repr__(self) -> str:
        return f"Outputs({', '.join(self.keys())})"


def at_path(output: object, path: str) -> object:
    """What a model returns at a path of keys, fields and indices: ``logits``, ``1``, ``aux.loss``. Raises KeyError.

    >>> at_path({"aux": (1, 2)}, "aux.1"), at_path(5, "")
    (2, 5)
    """
    value: Any = output
    for name in path.split(".") if path else ():
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, Sequence) and name.isdecimal():
            value = value[int(name)]
        elif not name.isdecimal() and hasattr(value, name):
            value = getattr(value, name)
        else:
            raise KeyError(path)
    return value
