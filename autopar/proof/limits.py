"""Records proved where numbers are special: zeros, ties, constant rows, infinities, NaN, and nothing that counts.

    prove_limits(op, sample)     the whole and every split give NaN and infinities in the same places, else equal numbers

A distributed form may be right for drawn numbers and still divide zero by zero where the undivided operator does not: the
variance of one row, the loss of samples that are all ignored, a row of scores that are all masked. So each operand of a sample
is filled with every such thing in turn, alone and together with the others. Partial operands are left out: addends of an
infinite number are no layout that anybody holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from autopar.ops.record.op import Op, Sample, T
from autopar.proof.record_proof import GRIDS, prove_whole
from autopar.proof.reference import REFUSED, Whole, every, filled, tensors, whole_of

Fill = Callable[[T, torch.Generator], torch.Tensor]
_BOUNDED = {  # kinds whose numbers have bounds
    "positive": ("zeros", "a row of zeros", "constant", "constant rows", "ones"),
    "unit": ("zeros", "a row of zeros", "constant", "constant rows", "ones"),
    "probabilities": ("constant",),
}
_MULTIPLIED = ("interpolate", "grid_sample", "fourier", "quantile")  # operands are, by numbers that may be zero
_REAL = ("normal", "constant")  # kinds whose numbers may be any


def _row(value: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """All numbers of one row along a dim have this value."""
    return lambda x, dim: x.index_fill(dim, torch.tensor([x.shape[dim] // 2]), value)


def _some(value: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Every third number has this value."""
    return lambda x, dim: x.masked_fill(torch.arange(x.numel()).reshape(x.shape) % 3 == dim % 3, value)


def _one(value: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """One number has this value."""
    return lambda x, dim: x.masked_fill(torch.arange(x.numel()).reshape(x.shape) == x.numel() // (dim + 2), value)


def _every(value: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda x, dim: torch.full_like(x, value)


_INF, _NAN = float("inf"), float("nan")
# By name; of a tensor (not empty, with dims) and one of its dims.
SPECIAL: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "zeros": _every(0.0),
    "a row of zeros": _row(0.0),
    "ones": _every(1.0),
    "constant": _every(0.75),
    "constant rows": lambda x, dim: (x.narrow(dim, 0, 1).mul(8).round() / 8).expand_as(x).clone(),  # no sum rounds
    "ties": lambda x, dim: x.round().clamp(-1, 1),
    "zeros of both signs": lambda x, dim: torch.copysign(torch.zeros_like(x), x),
    "some -inf": _some(-_INF),
    "a row of -inf": _row(-_INF),
    "all -inf": _every(-_INF),
    "one +inf": _one(_INF),
    "a row of +inf": _row(_INF),
    "one NaN": _one(_NAN),
    "a row of NaN": _row(_NAN),
}
# Of integers and booleans, by kind.
_OTHERS: dict[str, dict[str, float]] = {
    "labels": {"all ignored": -100, "half ignored": -100, "a row ignored": -100, "one label": 0},
    "index": {"one index": 0},
    "sorted": {"one index": 0},
    "mask": {"nothing masked in": False, "a row masked out": False, "everything masked in": True},
    "bool": {"nothing masked in": False, "a row masked out": False, "everything masked in": True},
}


def kinds(tensor: T) -> tuple[str, ...]:
    """What a sample's tensor may be filled with."""
    words = tensor.kind.split() or ["normal"]
    if not all(tensor.shape):
        return ()
    if words[0] in _OTHERS:
        return tuple(_OTHERS[words[0]])
    if words[0] in _BOUNDED:
        return _BOUNDED[words[0]]
    return tuple(SPECIAL) if words[-1] in (*_REAL, "float32", "float16", "bfloat16") else ()


def counts(op: Op, place: int | None, what: str) -> bool:
    """Whether torch says what comes of `what` in this operand, or in all.

    Of infinities and NaN it does not where numbers are multiplied (0 times infinity comes up or does not, as the kernel pads
    and blocks) nor of NaN in pointwise kernels (comparisons go one way in vectors and another in what is left over). A maximum
    among infinities has a gradient at one of them, which in windows is padding here: no model can tell.
    """
    if "inf" not in what and "NaN" not in what:
        return True
    if op.name in _MULTIPLIED or (op.name == "max_pool" and "-inf" in what):
        return False
    if op.work == "attention":
        return place == 3 and "-inf" in what  # the mask
    if op.work == "pointwise":
        return "inf" in what
    return op.work in ("memory", "view") or (op.work == "reduce" and place == 0)


def special(tensor: T, what: str, dim: int, generator: torch.Generator) -> torch.Tensor:
    """The tensor filled with `what`, one of its `kinds`, by its dim `dim`."""
    plain = filled(tensor, generator)
    if what not in kinds(tensor):
        return plain
    x, kind = plain.detach(), tensor.kind.split()[0]
    if kind in _OTHERS:
        value = _OTHERS[kind][what]
        if "half" in what and x.dim():
            return x.index_fill(0, torch.arange(x.shape[0] // 2), value)
        return _row(value)(x, dim) if "row" in what and x.dim() else torch.full_like(x, value)
    shaped = x.reshape(1) if not x.dim() else x
    return SPECIAL[what](shaped, dim).reshape(x.shape).requires_grad_(plain.requires_grad)


def fills(op: Op, sample: Sample) -> Iterator[tuple[str, Fill]]:
    """Every way to fill the sample's operands, with words: each operand alone along each dim, then all together."""
    operands = list(tensors((*sample.args, *(value for _, value in sample.kwargs))))
    for place, tensor in enumerate(operands):
        for what in kinds(tensor):
            for dim in range(max(len(tensor.shape), 1) if "row" in what else 1) if counts(op, place, what) else ():
                yield f"operand {place}: {what} along dim {dim}", _filling(what, dim, place)
    for what in SPECIAL if len(operands) > 1 else ():
        if counts(op, None, what):
            yield f"all operands: {what}", _filling(what, 0, None)


def _filling(what: str, dim: int, place: int | None) -> Fill:
    count = iter(range(10**6))

    def fill(tensor: T, generator: torch.Generator) -> torch.Tensor:
        mine = place in (None, next(count))
        return special(tensor, what, dim, generator) if mine else filled(tensor, generator)

    return fill


def prove_limits(
    op: Op,
    sample: Sample,
    read: Callable[[int], bool] = every,
    grids: Sequence[str] = GRIDS,
    chosen: Callable[[str], bool] = bool,
    few: bool = True,
) -> int:
    """Try every split that the rule allows under every filling, or under those whose words (`fills`) are `chosen`.

    Raises AssertionError; returns how much was tried. Fillings that the operator refuses are left out.
    """
    tried = 0
    for words, fill in fills(op, sample):
        whole = _filled(op, sample, read, fill) if chosen(words) else None
        if whole is not None:
            try:
                tried += prove_whole(op, whole, grids, few=few, only=("split",))
            except (AssertionError, RuntimeError) as error:
                error.add_note(f"{words} of {sample}")
                raise
    return tried


def _filled(op: Op, sample: Sample, read: Callable[[int], bool], fill: Fill) -> Whole | None:
    try:
        return whole_of(op, sample, read, fill)
    except REFUSED:
        return None
