"""What torch knows of the operator that a target names, and arguments as torch takes them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

from autopar.ir.graph import Argument, Dtype, Ref

if TYPE_CHECKING:
    from torch import Tensor


def overload_of(target: str) -> Any:  # noqa: ANN401 (torch's own type for these is private)
    """The overload in torch.ops of a target. Raises AttributeError where torch has none of that name."""
    import torch  # not needed where a plan is only read

    return reduce(getattr, target.split("."), torch.ops)


def evaluated(argument: Argument, env: Mapping[str, Tensor]) -> object:
    """An argument as torch takes it: the tensor of its name, a dtype, or a literal."""
    import torch

    if isinstance(argument, Ref):
        return env[argument.name]
    if isinstance(argument, Dtype):
        return getattr(torch, argument.name)
    if isinstance(argument, tuple):
        return [evaluated(item, env) for item in argument]
    return argument


@cache
def gives_list(target: str) -> bool:
    """Whether an operator returns a list of tensors, so that an only result is the list's only entry."""
    if target.startswith("autopar."):
        return False
    return [str(value.type) for value in overload_of(target)._schema.returns] == ["List[Tensor]"]
