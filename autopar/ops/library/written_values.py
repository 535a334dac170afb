"""Numbers of one tensor with the gradient of another, as capture makes of what reads a tensor that was written unseen.

valued    y[d] = now[d], dx[d] = dy[d]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autopar.ops.record.emit_context import function
from autopar.ops.record.op import Op, Sample, T, register
from autopar.ops.record.rule import broadcast, with_linear
from autopar.runtime.local.written_values import valued

_LIBRARY: Any = torch.library.Library("autopar", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("valued(Tensor x, Tensor now) -> Tensor")


def _numbers(x: Tensor, now: Tensor) -> Tensor:
    return now.clone()


_LIBRARY.impl("valued", _numbers, "CompositeExplicitAutograd")
torch.library.register_fake("autopar::valued", _numbers, lib=_LIBRARY)
torch.library.register_autograd("autopar::valued", lambda _, gradient: (gradient, None), lib=_LIBRARY)


register(
    Op(
        "valued", ("autopar.valued.default",), "d*, d* -> d*", lambda call: with_linear(broadcast(call), {0, 1}),
        function("valued", 2), work="memory", saves="",
        samples=(Sample((T((4, 6)), T((4, 6), "constant"))),), means=valued,
    )
)  # fmt: skip
