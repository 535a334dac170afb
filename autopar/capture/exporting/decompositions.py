"""Operators that are written out as simpler ones while a model is captured, each as a function of torch calls.

Recurrent cells by their products, so that a cell's gates can be split like those of any linear layer:

    lstm_cell   i, f, g, o = W x + b + U h + d;   c' = sigmoid(f) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
    gru_cell    r, z, n = W x + b;  s, y, m = U h + d;   k = tanh(n + sigmoid(r + s) m);   h' = k + sigmoid(z + y) (h - k)
    rnn_cell    h' = tanh(W x + b + U h + d), or relu

Recurrent layers that drop out between them, one by one, each followed by its dropout.

Transforms of several dims as one dim after the other, since a dim must be whole only while it is transformed.

Writes into parts of a tensor, which functionalization leaves behind, as joins of pieces:

    slice_scatter(x, y, dim, start, end)    cat(x[:start], y, x[end:])
    select_scatter(x, y, dim, i)            cat(x[:i], y[None], x[i + 1:])
    copy(x, y), fill(x, y)                  y expanded to x, in x's dtype

Elements by their places in memory, by their places in a flat view (`strided`), and views of what lies otherwise by copies.

Tensors that only lend a shape or a dtype, by that: a graph does not read them.

    type_as(x, y), to(x, y)                 x.to(y.dtype)
    expand_as(x, y), broadcast_to           x.expand(y.shape), also of each of broadcast_tensors
    view_as(x, y), reshape_as(x, y)         x.reshape(y.shape)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autopar.capture.exporting import memory_views

aten = torch.ops.aten
Sizes = Sequence[int] | None


def table() -> dict[Any, Callable[..., object]]:
    """The operators and what they are written out as, for ``ExportedProgram.run_decompositions``."""
    return {
        aten.lstm_cell.default: lstm_cell,
        aten.gru_cell.default: gru_cell,
        aten.rnn_tanh_cell.default: rnn_tanh_cell,
        aten.rnn_relu_cell.default: rnn_relu_cell,
        aten.lstm.input: partial(recurrent, torch.lstm),
        aten.gru.input: partial(recurrent, torch.gru),
        aten.rnn_tanh.input: partial(recurrent, torch.rnn_tanh),
        aten.rnn_relu.input: partial(recurrent, torch.rnn_relu),
        aten.fft_fft2.default: partial(_of_two, fftn),
        aten.fft_fftn.default: fftn,
        aten.fft_ifft2.default: partial(_of_two, ifftn),
        aten.fft_ifftn.default: ifftn,
        aten.fft_rfft2.default: partial(_of_two, rfftn),
        aten.fft_rfftn.default: rfftn,
        aten.fft_irfft2.default: partial(_of_two, irfftn),
        aten.fft_irfftn.default: irfftn,
        aten.slice_scatter.default: slice_scatter,
        aten.select_scatter.default: select_scatter,
        aten.copy.default: copy,
        aten.fill.Tensor: copy,
        aten.fill.Scalar: fill,
        aten.min.other: torch.minimum,
        aten.max.other: torch.maximum,
        aten.type_as.default: as_dtype_of,
        aten.to.other: as_dtype_of,
        aten.expand_as.default: expand_as,
        aten.broadcast_to.default: broadcast_to,
        aten.broadcast_tensors.default: broadcast_tensors,
        aten.view_as.default: reshape_as,
        aten.reshape_as.default: reshape_as,
        aten.as_strided.default: memory_views.as_strided,
        aten.as_strided_copy.default: memory_views.as_strided,
        aten.view.default: memory_views.view,
    }


def lstm_cell(
    x: Tensor, state: Sequence[Tensor], w: Tensor, u: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next (h, c) of ``torch.lstm_cell``."""
    h, c = state
    i, f, g, o = (F.linear(x, w, b) + F.linear(h, u, d)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_cell(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, d: Tensor | None = None) -> Tensor:
    """The next h of ``torch.gru_cell``."""
    r, z, n = F.linear(x, w, b).chunk(3, -1)
    s, y, m = F.linear(h, u, d).chunk(3, -1)
    k = (n + (r + s).sigmoid() * m).tanh()
    return k + (z + y).sigmoid() * (h - k)


def rnn_tanh_cell(
    x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    """The next h of ``torch.rnn_tanh_cell``."""
    return (F.linear(x, w, b) + F.linear(h, u, d)).tanh()


def rnn_relu_cell(
    x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> Tensor:
    """The next h of ``torch.rnn_relu_cell``."""
    return (F.linear(x, w, b) + F.linear(h, u, d)).relu()


def recurrent(
    layer: Callable[..., Sequence[Tensor]],
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:  # noqa: ANN401 (tensors, or what says that there is nothing to write out)
    """``torch.lstm`` and its like where they draw random numbers, which no rule can split inside of them."""
    if not (dropout and train and layers > 1):
        return NotImplemented
    ways, count = 1 + bidirectional, len(weights) // layers
    ends = []
    x = x.transpose(0, 1) if batch_first else x
    for i in range(layers):
        held = [whole.narrow(0, i * ways, ways) for whole in ([state] if isinstance(state, Tensor) else state)]
        own = weights[i * count : (i + 1) * count]
        x = F.dropout(x, dropout, True) if i else x
        start = held[0] if isinstance(state, Tensor) else held
        x, *last = layer(x, start, own, biases, 1, 0.0, train, bidirectional, False)
        ends.append(last)
    return x.transpose(0, 1) if batch_first else x, *(torch.cat(parts) for parts in zip(*ends, strict=True))


def fftn(x: Tensor, s: Sizes = None, dim: Sizes = None, norm: str | None = None) -> Tensor:
    """Forward transforms, the last dim first."""
    for axis, n in reversed(_dims(x, s, dim)):
        x = torch.fft.fft(x, n, axis, norm)
    return x


def ifftn(x: Tensor, s: Sizes = None, dim: Sizes = None, norm: str | None = None) -> Tensor:
    """Backward transforms, the last dim first."""
    for axis, n in reversed(_dims(x, s, dim)):
        x = torch.fft.ifft(x, n, axis, norm)
    return x


def rfftn(x: Tensor, s: Sizes = None, dim: Sizes = None, norm: str | None = None) -> Tensor:
    """Of real numbers: half of the last dim, then the others."""
    *others, (last, n) = _dims(x, s, dim)
    x = torch.fft.rfft(x, n, last, norm)
    for axis, n in reversed(others):
        x = torch.fft.fft(x, n, axis, norm)
    return x


def irfftn(x: Tensor, s: Sizes = None, dim: Sizes = None, norm: str | None = None) -> Tensor:
    """Back to real numbers: the last dim, of which half is there, comes last."""
    *others, (last, n) = _dims(x, s, dim)
    for axis, m in others:
        x = torch.fft.ifft(x, m, axis, norm)
    whole: Tensor = torch.fft.irfft(x, n, last, norm)
    return whole


def _of_two(
    transform: Callable[..., Tensor], x: Tensor, s: Sizes = None, dim: Sizes = (-2, -1), norm: str | None = None
) -> Tensor:
    """The transform of two dims, the last ones unless others are named."""
    return transform(x, s, dim, norm)


def _dims(x: Tensor, s: Sizes, dim: Sizes) -> list[tuple[int, int | None]]:
    """The dims that are transformed, from the front, and the length that each is cut or padded to."""
    if dim is None:
        dim = range(-len(s), 0) if s is not None else range(x.dim())
    lengths: Sequence[int | None] = [None] * len(dim) if s is None else [None if n == -1 else n for n in s]
    return [(axis % x.dim(), n) for axis, n in zip(dim, lengths, strict=True)]


def slice_scatter(
    x: Tensor, y: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:  # noqa: ANN401 (a tensor, or what says that there is nothing to write out)
    """x with the rows ``start:end`` of `dim` taken from y. Writes with steps stay as they are."""
    first, last, _ = slice(start, end).indices(x.shape[dim])
    if step != 1 or last <= first:
        return NotImplemented
    return _joined([x.narrow(dim, 0, first), y, x.narrow(dim, last, x.shape[dim] - last)], dim)


def select_scatter(x: Tensor, y: Tensor, dim: int, index: int) -> Tensor:
    """x with row `index` of `dim` taken from y."""
    row = index % x.shape[dim]
    after = x.narrow(dim, row + 1, x.shape[dim] - row - 1)
    return _joined([x.narrow(dim, 0, row), y.unsqueeze(dim), after], dim)


def _joined(pieces: Sequence[Tensor], dim: int) -> Tensor:
    """The pieces that have rows, one behind the other."""
    kept = [piece for piece in pieces if piece.shape[dim]]
    return kept[0] if len(kept) == 1 else torch.cat(kept, dim)


def copy(x: Tensor, y: Tensor, non_blocking: bool = False) -> Tensor:
    """The numbers of y in x's shape and dtype."""
    return y.to(x.dtype).expand(x.shape)


def fill(x: Tensor, value: float) -> Tensor:
    """One number in x's shape and dtype."""
    return torch.full_like(x, value)


def as_dtype_of(x: Tensor, y: Tensor, *options: object) -> Tensor:
    """x in y's dtype."""
    return x.to(y.dtype)


def expand_as(x: Tensor, y: Tensor) -> Tensor:
    """x in y's shape."""
    return x.expand(y.shape)


def broadcast_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """x in this shape."""
    return x.expand(size)


def broadcast_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All of them in the shape that they have together."""
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))  # type: ignore[no-untyped-call]
    return [tensor.expand(shape) for tensor in tensors]


def reshape_as(x: Tensor, y: Tensor) -> Tensor:
    """x with y's dims."""
    return x.reshape(y.shape)
