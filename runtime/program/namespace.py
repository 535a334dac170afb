"""The `p` of a generated program: tensors under the model's own dotted names, as nested attributes and indices.

``transformer.h.0.ln_1.weight`` is read ``p.transformer.h[0].ln_1.weight``. Components that are numbers are indices,
and a namespace iterates over its numbered entries in order (``for layer in p.transformer.h``). A component that is
not a Python identifier is read ``p["odd-name"]``, and so may any other be.

Like a module's `self`, every level also says what the current call is: ``p.training`` is true in training and false in
evaluation, ``p.batch`` is the number of rows on all ranks together. Where a batch is divided into micro-batches, each is a call:
``p.share`` is its share of the rows of the batch, ``p.last`` whether it is the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from autopar.errors import nearest


class CurrentCall:
    """What a call of the program is, shared by all levels of its namespace and set anew for each call."""

    __slots__ = ("batch", "last", "share", "training")

    def __init__(self, batch: int = 0, training: bool = True, share: float = 1.0, last: bool = True) -> None:
        self.batch = batch
        self.training = training
        self.share = share
        self.last = last


class Namespace:
    """A level of the tree of names: every entry is a tensor or another `Namespace`.

    >>> import torch
    >>> p = Namespace({"h.0.weight": torch.zeros(1), "h.2.weight": torch.ones(1), "bias": torch.ones(2)})
    >>> p.h[2].weight, len(p.h), p.bias.shape
    (tensor([1.]), 2, torch.Size([2]))
    """

    __slots__ = ("__dict__", "_call")

    def __init__(self, tensors: Mapping[str, Tensor], call: CurrentCall | None = None) -> None:
        self._call = call or CurrentCall()
        groups: dict[str, dict[str, Tensor]] = {}
        entries = vars(self)
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = tensor
            else:
                entries[first] = tensor
        for first, group in groups.items():
            assert first not in entries, f"{first!r} is both a tensor and a module"
            entries[first] = Namespace(group, self._call)

    @property
    def training(self) -> bool:
        """Whether the call trains: a batch norm uses the batch's statistics, dropout drops."""
        return self._call.training

    @property
    def batch(self) -> int:
        """How many rows the inputs of this call have along their batch dim, on all ranks together."""
        return self._call.batch

    @property
    def share(self) -> float:
        """The rows of this call over those of the whole batch: 1 but for a micro-batch."""
        return self._call.share

    @property
    def last(self) -> bool:
        """Whether this call is the last micro-batch of its batch."""
        return self._call.last

    def __getitem__(self, key: int | str) -> Any:  # noqa: ANN401 (a tensor or a namespace, as for an attribute)
        """The entry of this name or number."""
        try:
            return vars(self)[str(key)]
        except KeyError:
            raise KeyError(f"{key!r} is not among {', '.join(vars(self))}") from None

    def __iter__(self) -> Iterator[Any]:
        """The numbered entries in numerical order."""
        return (vars(self)[str(number)] for number in self._numbers())

    def __len__(self) -> int:
        """How many numbered entries there are."""
        return len(self._numbers())

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in vars(self) if name.isdecimal())

    def __repr__(self) -> str:
        return f"Namespace({', '.join(vars(self))})"

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (for type checkers: any entry)
        raise AttributeError(f"no parameter or module {name!r} here{nearest(name, vars(self))}")


def register(root: nn.Module, name: str, tensor: Tensor, kind: str) -> None:
    """Put a tensor under a dotted name, with a module per component; names need not be identifiers."""
    *path, leaf = name.split(".")
    module = root
    for component in path:
        module = module._modules.setdefault(component, nn.Module()) or module
    if isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._buffers[leaf] = tensor
        if kind == "constant":
            module._non_persistent_buffers_set.add(leaf)


def unregister(root: nn.Module, name: str) -> None:
    """Take away what `register` has put under a dotted name, and the modules that are left without any tensor."""
    first, _, rest = name.partition(".")
    module = root._modules.get(first) if rest else None
    if module is None:
        root._parameters.pop(name, None)
        root._buffers.pop(name, None)
        root._non_persistent_buffers_set.discard(name)
        return
    unregister(module, rest)
    if not (module._modules or module._parameters or module._buffers):
        del root._modules[first]
