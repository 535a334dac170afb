"""Scaled dot product attention where query rows, or keys and values, lie on several ranks, and with dropout.

    s[t, j] = scale q[t] . k[j] + mask[t, j]      p = softmax_j(s)      y[t] = sum_j p[t, j] v[j]

Query rows are independent of one another; a rank that holds some of them has to know which, since a causal mask allows
row t the keys j <= t. Where the keys are split, every rank attends to its own, with z_r[t] = log sum over own j of exp s:

    forward    z = log sum_r exp z_r                        one all-gather of a number per row
               y_r[t] = sum over own j of exp(s - z) v[j]   this rank's addend of y
    adjoint    p = exp(s - z)
               D[t] = sum_r dy[t] . y_r[t]                  one all-sum of a number per row
               dv = p^T dy     ds = p (dy v^T - D)     dq = scale ds k     dk = scale ds^T q     dmask = ds

(T. Dao et al., FlashAttention, arXiv 2205.14135, has the same sums over blocks of keys of one device.) q is Copied over
the ranks of the keys: its gradient is the sum of theirs. With dropout m, p m / (1 - p_drop) takes the place of p in y, dv
and dy v^T; D and z stay what they are. Rows that may attend to nothing are zero.

The rows are taken some at a time, so that the scores of all rows never stand in memory together, and under a causal mask
keys behind the last of these rows are left out. Backward computes the scores again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autopar.runtime.functional.across_ranks import log_sum_exp, summed
from autopar.runtime.functional.dropout import kept
from autopar.runtime.grid.counter_rng import skipped
from autopar.runtime.grid.grid import Axis
from autopar.runtime.grid.shard_positions import Over, Rows, axes_of, rows_of
from autopar.runtime.local.autocast import wide_dtype
from autopar.runtime.primitives.autograd import Context, apply

_NOWHERE: Over = {}
_SCORES = 2**22  # that stand in memory at a time
_ROWS = (16, 128)  # of queries at a time: at least, at most


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    over: Over = _NOWHERE,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, this rank's rows of it, or its addend where keys are split.

    q is [batch..., t, e], k [batch..., s, e], v [batch..., s, f]; with `enable_gqa` the last batch dim, the heads, of q is
    a multiple of theirs. `over` gives the places of split dims of the scores [batch..., t, s]: of t and s, and with dropout
    of all. The result [batch..., t, f] is Partial over the axes that split s.
    """
    # of no rows torch has no gradient of the mask, which other ranks may wait for
    if not over and not dropout_p and q.numel() and v.numel():
        return F.scaled_dot_product_attention(q, k, v, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    lead = q.shape[:-2]
    dropped = None
    if dropout_p and not skipped():
        dropped = kept(1 - dropout_p, (*lead, q.shape[-2], k.shape[-2]), over, q.device)
    kind = q.dtype
    if torch.is_autocast_enabled(q.device.type):
        kind = torch.get_autocast_dtype(q.device.type)
    wide = wide_dtype(kind)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(wide)
    heads = k.shape[-3] if enable_gqa else q.shape[-3] if lead else 1
    group = (q.shape[-3] // heads if heads else 1) if enable_gqa else 1
    batch = (*lead[:-1], heads) if lead else (1,)
    ndim = q.dim()
    form = _ScoreForm(
        batch, group, scale if scale is not None else 1 / math.sqrt(q.shape[-1]), 1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
        is_causal, _place(over, ndim - 2, q.shape[-2]), _place(over, ndim - 1, k.shape[-2]), axes_of(over.get(ndim - 1)),
    )  # fmt: skip
    queries = q.reshape(form.size, group, *q.shape[-2:])
    keys, values = (x.expand(*batch, *x.shape[-2:]).reshape(form.size, *x.shape[-2:]) for x in (k, v))
    operands = [x.to(kind).to(wide) for x in (queries, keys, values)]
    with torch.autocast(q.device.type, enabled=False):
        y = apply(_Attention, *operands, attn_mask, dropped, form)
    return y.view(*lead, *y.shape[-2:]).to(kind)


def _place(over: Over, dim: int, extent: int) -> Rows:
    return rows_of(over[dim]) if dim in over else range(extent)


@dataclass(frozen=True, slots=True)
class _ScoreForm:
    """What the tensors of a call do not say. Queries are seen as [batch, group, t, e], keys as [batch, s, e]."""

    batch: tuple[int, ...]
    group: int
    scale: float
    inverse: float  # of the probability that dropout keeps
    causal: bool
    rows: Rows
    columns: Rows
    axes: tuple[Axis, ...]  # that split the keys

    @property
    def size(self) -> int:
        """The number of heads of keys in all."""
        return math.prod(self.batch)

    def broadcast(self, x: Tensor) -> Tensor:
        """A mask, or dropout, as [batch..., group, t, s], dims of extent 1 left as they are."""
        full = len(self.batch) + 2
        x = x.reshape(*[1] * (full - x.dim()), *x.shape) if x.dim() < full else x
        heads = x.shape[-3]
        split = (1, 1) if heads == 1 else (self.batch[-1], self.group)
        return x.reshape(*x.shape[:-3], *split, *x.shape[-2:])

    def chunks(self, t: int, s: int) -> Iterator[tuple[slice, int, int]]:
        """(query rows, number of keys they may need, number of keys that all of them may attend to)."""
        step = min(max(_SCORES // max(self.size * self.group * s, 1), _ROWS[0]), _ROWS[1])
        for low in range(0, t, step):
            high = min(low + step, t)
            if self.causal:
                yield slice(low, high), _below(self.columns, self.rows[high - 1]), _below(self.columns, self.rows[low])
            else:
                yield slice(low, high), s, s


def _below(columns: Rows, row: int | Tensor) -> int:
    """How many of the ascending columns are at or before the row."""
    if isinstance(columns, range):
        return min(max(int(row) - columns.start + 1, 0), len(columns))
    return int((columns <= row).sum())


def _numbers(rows: Rows, device: torch.device) -> Tensor:
    return torch.tensor(rows, device=device) if isinstance(rows, range) else rows.to(device)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropped: Tensor | None, form: _ScoreForm
    ) -> Tensor:
        t, s = q.shape[-2], k.shape[-2]
        y = q.new_zeros(form.size, form.group, t, v.shape[-1])
        z = q.new_full((form.size, form.group, t), -math.inf)
        for rows, width, free in form.chunks(t, s):
            if width and y.numel():
                p = _scores(q[:, :, rows], k[:, :width], mask, form, rows, free)
                most = p.amax(-1, keepdim=True).clamp_(min=torch.finfo(p.dtype).min)
                total = p.sub_(most).exp_().sum(-1, keepdim=True)
                z[:, :, rows] = (most + total.log()).view(form.size, form.group, -1)
                p = _thinned(p, dropped, form, rows, width)
                y[:, :, rows] = (p @ v[:, :width] / total.clamp_(min=torch.finfo(p.dtype).tiny)).view_as(y[:, :, rows])
        if form.axes:
            whole = log_sum_exp(z, form.axes)
            y *= torch.where(z == -math.inf, 0, (z - whole).exp()).unsqueeze(-1)
            z = whole
        ctx.save_for_backward(q, k, v, y, z)
        ctx.arguments = mask, dropped, form
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (queries, keys, values, y, z), (mask, dropped, form) = ctx.saved_tensors, ctx.arguments
        grad = grad.reshape(y.shape)
        inner = summed((grad * y).sum(-1), form.axes)
        z = z.masked_fill(z == -math.inf, math.inf)  # rows that attend to nothing: exp(s - z) is zero
        dq, dk, dv = torch.zeros_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        dmask = torch.zeros_like(mask) if mask is not None and ctx.needs_input_grad[3] else None
        for rows, width, free in form.chunks(y.shape[2], keys.shape[1]):
            if not width or not y.numel():
                continue
            chosen, sent = _flat(queries[:, :, rows]), _flat(grad[:, :, rows])
            p = _scores(queries[:, :, rows], keys[:, :width], mask, form, rows, free)
            p.sub_(_flat(z[:, :, rows].unsqueeze(-1))).exp_()
            thin = _thinned(p, dropped, form, rows, width)
            dv[:, :width].baddbmm_(thin.mT, sent)
            ds = _thinned(sent @ values[:, :width].mT, dropped, form, rows, width)
            ds = ds.sub_(_flat(inner[:, :, rows].unsqueeze(-1))).mul_(p)
            if dmask is not None:
                _add_to(form.broadcast(dmask), _many(ds, form), rows, width)
            dq[:, :, rows] = (ds @ keys[:, :width]).mul_(form.scale).view_as(dq[:, :, rows])
            dk[:, :width].baddbmm_(ds.mT, chosen, alpha=form.scale)
        return dq, dk, dv, dmask, None, None


def _flat(x: Tensor) -> Tensor:
    """[batch, group, rows, e] as [batch, group rows, e]."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def _many(x: Tensor, form: _ScoreForm) -> Tensor:
    """[batch, group rows, s] as [batch..., group, rows, s]."""
    return x.view(*form.batch, form.group, x.shape[1] // form.group, x.shape[2])


def _part(x: Tensor, rows: slice, width: int) -> Tensor:
    """The rows and columns of a mask, of which it may have one that stands for all."""
    x = x if x.shape[-2] == 1 else x[..., rows, :]
    return x if x.shape[-1] == 1 else x[..., :width]


def _scores(q: Tensor, keys: Tensor, mask: Tensor | None, form: _ScoreForm, rows: slice, free: int) -> Tensor:
    """Masked scores [batch, group rows, s] of some query rows against the first keys."""
    s = _flat(q).mul(form.scale) @ keys.mT
    if mask is not None:
        part = _part(form.broadcast(mask), rows, keys.shape[1])
        if mask.dtype == torch.bool:
            _many(s, form).masked_fill_(~part, -math.inf)
        else:
            _many(s, form).add_(part)
    if form.causal and free < keys.shape[1]:
        down = _numbers(form.rows, s.device)[rows].unsqueeze(1)
        hidden = _numbers(form.columns, s.device)[free : keys.shape[1]] > down
        s.view(s.shape[0], form.group, -1, s.shape[2])[..., free:].masked_fill_(hidden, -math.inf)
    return s


def _thinned(p: Tensor, dropped: Tensor | None, form: _ScoreForm, rows: slice, width: int) -> Tensor:
    """The weights that dropout leaves, scaled."""
    if dropped is None:
        return p
    return (_many(p, form) * _part(form.broadcast(dropped), rows, width)).mul_(form.inverse).view(p.shape)


def _add_to(into: Tensor, ds: Tensor, rows: slice, width: int) -> None:
    """Add the gradient of scores to that of a mask, summed over the dims in which the mask is broadcast."""
    part = _part(into, rows, width)
    part += ds.sum_to_size(part.shape)
