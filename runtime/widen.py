"""Runs a model in float64 all the way, although its own code asks for float32 somewhere.

Models cast to float32 where they want precision beyond their weights' (logits before a loss, the inside of a norm). In a
float64 run such a cast loses precision instead, and two correct programs then differ by float32's rounding. Under
`Widened`, what asks for float32 gets float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Casts to float32, and new tensors of float32, become float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        """Call the operator with every dtype argument that says float32 saying float64."""
        given = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **given)
