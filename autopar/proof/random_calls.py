"""What random models are made of: the records that real models read most, dealt in turn, and all others beside them.

    dealt(seed, often, others)     so many of the first and of the second, as entries of a model

Every model has its share of two shuffled decks, and the next seed goes on where it stopped: what is in a deck is drawn, and as
often as anything else in it. Entries are records, operators without a record, and lines that capture turns into calls of ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from autopar.ops.record.fallback import FALLBACK
from autopar.ops.record.op import Op, Sample, T
from autopar.ops.registry import registry

_LEFT_OUT = (  # records that are drawn with care elsewhere
    "recurrent",  # torch reads beyond its weights where their shapes do not fit
    "empty", "nextafter", "frexp",  # no defined numbers; no gradient that is one in float64
)  # fmt: skip
_OFTEN = {  # what real models consist of, and how often it is in the deck
    "linear": 5, "matmul": 4, "addmm": 2, "einsum": 2, "attention": 4, "conv": 3, "conv_transpose": 1, "bilinear": 1,
    "embedding": 4, "gather": 4, "index_select": 3, "index": 3, "take_along_dim": 1, "scatter": 3, "index_add": 2, "index_put": 2,
    "one_hot": 1, "masked_fill": 1, "where": 2, "layer_norm": 3, "rms_norm": 2, "group_norm": 2, "batch_norm_still": 1,
    "softmax": 3, "log_softmax": 2, "sum": 2, "mean": 2, "var": 1, "std": 1, "amax": 1, "max": 1, "logsumexp": 1, "norm": 1,
    "cumsum": 1, "topk": 2, "argmax": 2, "argsort": 1, "sort": 1, "cat": 3, "split": 3, "stack": 1, "slice": 1, "select": 1,
    "pad": 1, "reshape": 3, "permute": 2, "expand": 1, "unsqueeze": 1, "flip": 1, "triangle": 1, "cross_entropy": 4,
    "nll_loss": 2, "mse_loss": 1, "binary_cross_entropy_with_logits": 1, "cosine_similarity": 1, "max_pool": 1, "avg_pool": 1,
    "add": 2, "sub": 1, "mul": 1, "div": 2, "gelu": 1, "relu": 1, "pow": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextEntry:
    """A line of text with operands in it, which capture turns into a call of a target of ours."""

    name: str
    text: str
    operands: tuple[T, ...]


Entry = Op | TextEntry

_LINES = (
    TextEntry("batch_norm", "F.batch_norm({}, None, None, {}, {}, True)", (T((4, 6, 3)), T((6,)), T((6,)))),
    TextEntry("affine", "torch.addmm({2}, {0}.view(-1, 6), {1}).view(3, 4, 8)", (T((3, 4, 6)), T((6, 8)), T((8,)))),
    TextEntry("heads", "{}.view(2, 6, 2, 4).transpose(1, 2)", (T((2, 6, 8)),)),
)


def _unruled(name: str, *samples: Sample) -> Op:
    return replace(FALLBACK, name=name, targets=(f"aten.{name}.default",), samples=samples)


_SIGNS, _PAIR = T((4,), "positive"), (T((4, 6)), T((4, 6)))
_UNRULED = (  # operators without a record, most of which have arguments with a default that torch's function has otherwise
    _unruled("margin_ranking_loss", Sample((T((4,)), T((4,)), _SIGNS)), Sample((*_PAIR, T((4, 6), "positive"), 0.3))),
    _unruled("hinge_embedding_loss", Sample((_PAIR[0], T((4, 6), "positive")))),
    _unruled(
        "cosine_embedding_loss", Sample((*_PAIR, T((4,), "positive"))), Sample((*_PAIR, T((4,), "positive"), 0.2))
    ),
    _unruled("triplet_margin_loss", Sample((*_PAIR, T((4, 6)))), Sample((*_PAIR, T((4, 6)), 0.5))),
    _unruled("poisson_nll_loss", Sample((_PAIR[0], T((4, 6), "positive"), True, False, 1e-8, 1))),
    _unruled("renorm", Sample((_PAIR[0], 2.0, 0, 1.0))),
)


def drawable(op: Op) -> bool:
    """Whether the record's calls can be part of a drawn model. Of attention, those without dropout."""
    plain = not op.random or op.work == "attention"
    return bool(op.samples) and plain and op.name not in _LEFT_OUT and any(map(is_aten, op.targets))


def is_aten(target: str) -> bool:
    """Whether a line of text may call the target."""
    return target.startswith("aten.")


@cache
def _decks() -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """What is drawn often, each kind before any a second time, and everything; shuffled once and for all."""
    every = {op.name: op for op in dict.fromkeys(registry().values()) if drawable(op)}
    once: list[Entry] = [*(every[name] for name in _OFTEN if name in every), *_LINES, *_UNRULED]
    again: list[Entry] = [every[name] for name, times in _OFTEN.items() for _ in range(times - 1) if name in every]
    rest: list[Entry] = [op for op in every.values() for _ in range(1 if op.work == "pointwise" else 2)]
    shuffle = random.Random(0)
    once, again, rest = (shuffle.sample(deck, len(deck)) for deck in (once, again, rest))
    return (*once, *again), tuple(rest)


def dealt(seed: int, often: int, others: int) -> Iterator[Entry]:
    """The seed's share of both decks, mixed."""
    first, second = _decks()
    entries = [*_share(first, seed, often), *_share(second, seed, others)]
    yield from random.Random(seed).sample(entries, len(entries))


def _share(deck: Sequence[Entry], seed: int, count: int) -> Iterator[Entry]:
    return (deck[(seed * count + i) % len(deck)] for i in range(count))
