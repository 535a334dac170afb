"""What torch cannot trace though a graph can have it, put in other words while forward is traced; and what it can only refuse.

nn.TransformerEncoder     asks whether a mask is causal, to be faster; the mask itself says the same, so the answer is no
ctc_loss                  the shape of its workspace follows the longest target; it is part of no result
lstsq                     has residuals where the matrix has full rank; that they are read is refused
gradients inside forward  torch.autograd.grad, backward, torch.func.grad: refused
packed sequences          refused
numbers of tensors        where a slice begins (`autopar.capture.tracing.pointer_slices`), and what torch's own functions only
check (`reworded`)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import fake_impls
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode

from autopar.capture.diagnostics.refusals import GRADIENT_FIX, GRADIENT_RULE, NotAllowed
from autopar.capture.tracing.patches import patched
from autopar.capture.tracing.pointer_slices import Pointing
from autopar.capture.tracing.reworded_functions import REWORDED, unchecked

_CTC = (torch.ops.aten._ctc_loss.default, torch.ops.aten._ctc_loss.Tensor)
_LSTSQ = torch.ops.aten.linalg_lstsq.default
_PACKED_RULE = "one program serves all steps, so the shape of a tensor must not follow the numbers in another"
_PACKED_FIX = (
    "give the recurrent layer the padded batch, and leave out what lies behind each row's end: "
    "y * (torch.arange(y.shape[1]) < lengths[:, None])[..., None]; the last state is y at lengths - 1 (torch.gather)"
)


@contextlib.contextmanager
def rewording() -> Iterator[None]:
    """While active, forward is traced as above. Raises NotAllowed inside it."""
    with patched([(transformer, "_detect_is_causal_mask", _says_causal)]), unchecked(), _Rewording(), Pointing():
        yield


@contextlib.contextmanager
def largest_shapes() -> Iterator[None]:
    """While active, results of operators whose shapes follow numbers have the largest shape that they can have."""
    known: Any = fake_impls.op_implementations_dict
    rewording: dict[Any, Any] = dict.fromkeys(_CTC, _ctc_shapes) | {_LSTSQ: _lstsq_shapes}
    before = {target: known[target] for target in rewording if target in known}
    known.update(rewording)
    try:
        yield
    finally:
        for target in rewording:
            del known[target]
        known.update(before)


def _says_causal(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Whether the caller says that the mask is causal."""
    return bool(is_causal)


def _ctc_shapes(
    mode: object, func: object, scores: Tensor, targets: Tensor, *args: object, **kwargs: object
) -> tuple[Tensor, Tensor]:
    """Losses by row, and as much workspace as any target could need."""
    rows = scores.shape[1] if scores.dim() == 3 else 1
    return scores.new_empty(rows), scores.new_empty(rows, scores.shape[0], 2 * targets.shape[-1] + 1)


def _lstsq_shapes(
    mode: object, func: object, a: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> tuple[Tensor, ...]:
    """The solution, the residuals as if all ranks were full (nothing may read them), ranks and singular values."""
    vectors = b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1])
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-1] if vectors else b.shape[:-2])  # type: ignore[no-untyped-call]
    columns = () if vectors else b.shape[-1:]
    ranks = a.shape[:-2] if driver != "gels" else (0,)
    values = (*a.shape[:-2], min(a.shape[-2:])) if driver in ("gelsd", "gelss") else (0,)
    residuals = (*batch, *columns) if a.shape[-2] > a.shape[-1] and driver != "gelsy" else (0,)
    return (
        b.new_empty((*batch, a.shape[-1], *columns)), b.new_empty(residuals), a.new_empty(ranks, dtype=torch.int64),
        a.new_empty(values, dtype=a.dtype.to_real()),
    )  # fmt: skip


class _Rewording(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Make the call, or what stands for it. Raises NotAllowed where nothing does."""
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func in REWORDED:
            return REWORDED[func](*args, **named)
        if func in (torch.ctc_loss, F.ctc_loss):  # with lengths in tensors: that with lists looks at the targets
            args = (*args[:2], *map(_tensor, args[2:4]), *args[4:])
            named = {key: _tensor(value) if key.endswith("_lengths") else value for key, value in named.items()}
        if func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward):
            raise NotAllowed(f"forward takes a gradient ({name})", GRADIENT_RULE, GRADIENT_FIX)
        if name == "_pack_padded_sequence":
            raise NotAllowed(f"forward packs sequences by their lengths ({name[1:]})", _PACKED_RULE, _PACKED_FIX)
        return func(*args, **named)


def _tensor(lengths: Any) -> Tensor:  # noqa: ANN401 (a tensor, or a list or tuple of numbers)
    return lengths if isinstance(lengths, Tensor) else torch.tensor(list(lengths))
