"""Bytes that one rank holds, and when: parameters, gradients, optimizer state, saved activations, transients.

Time runs in 2n steps for a graph of n nodes: node i computes at step i, its backward at step 2n - 1 - i. Intervals are
half open. What node i saves for its backward lives [i, 2n - i); parameters, their gradients and the optimizer's state
live all the time. A value dies after its last use, and a view is another name of the tensor it looks at.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopar.costmodel.local_shapes import local_bytes, local_part, local_shape
from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.graph import ITEMSIZE, OPTIMIZER_COPIES, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layouts
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Choice, Rule
from autopar.ops.saved_tensors import scratch, words


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bytes of some kind that are held over the steps ``start <= t < end``."""

    name: str
    start: int
    end: int
    nbytes: int
    kind: str = ""


def optimizer_copies(optimizer: str) -> int:
    """How many tensors of a parameter's size the optimizer keeps: sgd 0, momentum 1, adamw 2. Raises ConfigError."""
    if optimizer not in OPTIMIZER_COPIES:
        fault = f"unknown{nearest(optimizer, OPTIMIZER_COPIES)}"
        raise ConfigError(refusal(f"optimizer {optimizer!r}", fault, f"one of {', '.join(OPTIMIZER_COPIES)}"))
    return OPTIMIZER_COPIES[optimizer]


def update_copies(optimizer: str) -> int:
    """How many tensors of the largest parameter's size torch makes while it updates that parameter.

    AdamW divides the root of a state by a number, and holds both.
    """
    return 2 if optimizer == "adamw" else 0


def parameter_parts(value: Value, kind: str, stored: Layouts, optimizer: str, grid: GridShape) -> tuple[int, int, int]:
    """(parameter, gradient, optimizer state): local bytes of a tensor stored with layouts `stored`.

    `kind` as in `graph.Parameter`: only a "parameter" has a gradient and a state.
    """
    size = local_bytes(value.shape, ITEMSIZE[value.dtype], stored, grid)
    return (size, size, size * optimizer_copies(optimizer)) if kind == "parameter" else (size, 0, 0)


def parameter_bytes(value: Value, kind: str, stored: Layouts, optimizer: str, grid: GridShape) -> int:
    """All three `parameter_parts` together."""
    return sum(parameter_parts(value, kind, stored, optimizer, grid))


def kept(call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape) -> list[tuple[str, int]]:
    """(value, local bytes) of all that the call keeps for its backward; the value is "" for tensors made for that alone."""
    if op.work == "view" or not any(value.differentiable for value in call.results):
        return []
    return _sizes(words(call, rule, op, split_letters(choices, grid)), call, rule, choices, grid)


def split_letters(choices: tuple[Choice, ...], grid: GridShape) -> frozenset[str]:
    """The letters that lie on several ranks."""
    return frozenset(
        choice.letter for choice, size in zip(choices, grid.sizes, strict=True) if choice.letter and size > 1
    )


def scratch_bytes(call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape) -> tuple[int, int]:
    """(forward, backward): bytes of what comes and goes inside the call, beside operands, results and gradients."""
    ahead, back = (
        sum(size for _, size in _sizes(text, call, rule, choices, grid))
        for text in scratch(call, rule, op, split_letters(choices, grid))
    )
    return ahead, back


def _sizes(text: str, call: Call, rule: Rule, choices: tuple[Choice, ...], grid: GridShape) -> list[tuple[str, int]]:
    """What words name: values with their local bytes, and new tensors under the name ""."""
    tensors = {
        f"x{i}": (value, tuple(choice.operands[i] for choice in choices)) for i, value in enumerate(call.operands)
    }
    results = {f"y{i}": (value, tuple(choice.results[i] for choice in choices)) for i, value in enumerate(call.results)}
    tensors |= {name: pair for name, pair in results.items() if pair[0].name}
    sizes: dict[tuple[str, str], int] = {}
    for word in _plain_words(text, call):
        if "@" in word:
            size = _letter_bytes(word, rule, choices, grid)
        else:
            kind, at = word[:-2] if word[-2] in "xy" else word[:-3], word[-2:] if word[-2] in "xy" else word[-3:]
            if at not in tensors:
                continue
            size = _tensor_bytes(kind, *tensors[at], rule, choices, grid)
            if not kind:
                sizes[tensors[at][0].name, ""] = size
                continue
        sizes["", f"{len(sizes)}"] = size
    return [(name, size) for (name, _), size in sizes.items()]


def kept_names(call: Call, rule: Rule, op: Op) -> frozenset[str]:
    """The operands and results that the call keeps where no letter is split."""
    if op.work == "view" or not any(value.differentiable for value in call.results):
        return frozenset()
    tensors = {f"x{i}": value.name for i, value in enumerate(call.operands)}
    tensors |= {f"y{i}": value.name for i, value in enumerate(call.results) if value.name}
    return frozenset(tensors[word] for word in _plain_words(words(call, rule, op, ()), call) if word in tensors)


def _plain_words(text: str, call: Call) -> list[str]:
    """The words without those that stand for several, and without conditions: ``x0/1`` stays where operand 1 has a gradient."""
    plain = []
    for word in text.split():
        if word in ("inputs", "ints"):
            plain += [f"x{i}" for i, operand in enumerate(call.operands) if word == "inputs" or _counts(operand)]
        elif "/" in word:
            first, other = word.split("/")
            if int(other) < len(call.operands) and call.operands[int(other)].differentiable:
                plain.append(first)
        else:
            plain.append(word)
    return list(dict.fromkeys(plain)) if "=" not in text else plain


def _counts(value: Value) -> bool:
    return value.dtype.startswith(("int", "uint", "bool"))


def _tensor_bytes(
    kind: str, value: Value, layouts: Layouts, rule: Rule, choices: tuple[Choice, ...], grid: GridShape
) -> int:
    """Bytes of a local tensor, of one like it (``=``, ``8:``), or of one with its neighbours' rows (``~``)."""
    if kind.endswith(":"):
        return local_bytes(value.shape, int(kind[:-1]), layouts, grid)
    if kind != "~":
        return local_bytes(value.shape, ITEMSIZE[value.dtype], layouts, grid)
    shape = list(local_shape(value.shape, layouts, grid))
    for choice in choices:
        window = rule.windows.get(choice.letter)
        if window is not None and not window.transposed:
            dim = next(i for i, names in enumerate(rule.operands[0]) if choice.letter in names)
            shape[dim] += max(0, window.dilation * (window.kernel - 1))
    return math.prod(shape) * ITEMSIZE[value.dtype]


def _letter_bytes(word: str, rule: Rule, choices: tuple[Choice, ...], grid: GridShape) -> int:
    """``8@n,c``: of so many letters that rank's share is the largest."""
    size, names = word.split("@")
    total = int(size)
    for name, _, more in (text.partition("+") for text in names.split(",") if text):
        cuts = [(choice.blocks, choice.unit, axis) for axis, choice in enumerate(choices) if choice.letter == name]
        total *= local_part(rule.extents[name], cuts, grid) + int(more or 0)
    return total


def saved_bytes(
    call: Call, rule: Rule, op: Op, choices: tuple[Choice, ...], grid: GridShape, resident: Collection[str] = ()
) -> int:
    """Bytes the call keeps for its backward; nothing for values named in `resident`, which are held anyway.

    Consumers that save the same local tensor share it: name it in `resident` of all but the first.
    """
    return sum(size for name, size in kept(call, rule, op, choices, grid) if not name or name not in resident)


def timeline(held: Iterable[Allocation], steps: int) -> NDArray[np.int64]:
    """Bytes held at each step."""
    change = np.zeros(steps + 1, dtype=np.int64)
    for allocation in held:
        change[max(allocation.start, 0)] += allocation.nbytes
        change[min(allocation.end, steps)] -= allocation.nbytes
    return np.cumsum(change[:-1])


def peak(held: Iterable[Allocation], steps: int) -> tuple[int, int]:
    """(bytes, step): the most bytes held at once, and the first step at which they are."""
    sizes = timeline(held, steps)
    at = int(sizes.argmax())
    return int(sizes[at]), at
