"""What leads from a value to the shape that a call wants: reductions, views, broadcasts, pieces and joins, drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

Step = Callable[[str, Tensor], str]
_REAL = ("mean({})", "sum({})", "amax({})", "select({}, 0)", "logsumexp({})")
_WHOLE = ("amax({})", "select({}, 0)", "sum({})")


def steps(draw: random.Random, shape: tuple[int, ...]) -> Iterator[Step]:
    """Each gives the next expression, or nothing when it is done."""

    def fewer(text: str, value: Tensor) -> str:
        if value.dim() <= len(shape):
            return ""
        if draw.random() < 0.4:
            return f"{text}.flatten(0, 1)"
        form = draw.choice(_REAL if value.is_floating_point() else _WHOLE)
        return f"{text}.{form.format(draw.randrange(-value.dim(), value.dim()))}"

    def more(text: str, value: Tensor) -> str:
        return f"{text}.unsqueeze({draw.randint(0, value.dim())})" if value.dim() < len(shape) else ""

    turns = [1] if draw.random() < 0.2 else []

    def turn(text: str, value: Tensor) -> str:
        if value.dim() < 2 or not turns:
            return ""
        turns.clear()
        return f"{text}.transpose({', '.join(map(str, draw.sample(range(value.dim()), 2)))})"

    yield from (fewer, more, turn)
    yield lambda text, value: _extended(draw, text, value, shape)


def _extended(draw: random.Random, text: str, value: Tensor, shape: Sequence[int]) -> str:
    """The next dim whose extent is another: broadcast, cut, or put together with itself."""
    for dim, (have, want) in enumerate(zip(value.shape, shape, strict=True)):
        if have == want:
            continue
        if have == 1:
            return f"{text}.expand({', '.join(str(want if i == dim else n) for i, n in enumerate(value.shape))})"
        if have > want:
            return f"{text}.narrow({dim}, {draw.randint(0, have - want)}, {want})"
        other = f"0.7 * {text} + 0.1" if value.is_floating_point() else f"{text} + 1"
        return f"torch.cat([{text}, {other}], {dim})"
    return ""
