"""What torch knows of the operator that a target names."""

from __future__ import annotations

from functools import cache, reduce
from typing import Any


def overload_of(target: str) -> Any:  # noqa: ANN401 (torch's own type for these is private)
    """The overload in torch.ops of a target. Raises AttributeError where torch has none of that name."""
    import torch  # not needed where a plan is only read

    return reduce(getattr, target.split("."), torch.ops)


@cache
def gives_list(target: str) -> bool:
    """Whether an operator returns a list of tensors, so that an only result is the list's only entry."""
    if target.startswith("autopar."):
        return False
    return [str(value.type) for value in overload_of(target)._schema.returns] == ["List[Tensor]"]
