"""Communication seconds of one training step by equations 3 to 9 of Gholami, Azad, Jin, Keutzer and Buluc, "Integrated
Model, Batch and Domain Parallelism in Training Neural Networks" (arXiv 1712.04432), as plain functions.

Ranks form a grid of `rows` x `columns` (Pr x Pc in the paper): the columns split the batch, the rows split each layer's
weights (model), or the images (domain). A layer turns X (channels, height, width) into Y; for a batch of B images

    d    = Y_C Y_H Y_W                    words of one image's result
    |W|  = k_h k_w X_C Y_C / groups       words of the weights, without biases
    halo = X_W X_C floor(k_h / 2) forward, Y_W Y_C floor(k_w / 2) backward, words of one image
    L(p) = ceil(log2 p)                   messages of a collective of p ranks
    b    = `word` bytes / bandwidth       seconds per word, (p - 1) / p of them on the wire

The paper counts 3 d for model parallelism (a gather of Y and a sum of dX, twice the volume), although dX has the size of X
and the first layer has none; and L(p) messages for an all-reduce. Both are kept as they are printed. What the
paper leaves out is left out: contention, topology, compute. Seconds are those of one step and of the slowest rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from autopar.ir.machine import Link

WORD = 4  # bytes: float32
Count = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, or a fully connected layer as the convolution that covers its input.

    `kernel` is (height, width); `input` and `output` are (channels, height, width) of one image.
    """

    name: str
    kernel: tuple[Count, Count]
    input: tuple[Count, Count, Count]
    output: tuple[Count, Count, Count]
    groups: Count = 1

    @property
    def weights(self) -> int:
        """|W|: words of the weights."""
        return self.kernel[0] * self.kernel[1] * self.input[0] * self.output[0] // self.groups

    @property
    def size(self) -> int:
        """d: words of one image's result."""
        return math.prod(self.output)

    @property
    def halo_forward(self) -> int:
        """Words of one image's rows that a neighbour needs before the layer."""
        return self.input[2] * self.input[0] * (self.kernel[0] // 2)

    @property
    def halo_backward(self) -> int:
        """Words of one image's gradient rows that a neighbour needs before the layer's backward."""
        return self.output[2] * self.output[0] * (self.kernel[1] // 2)


def messages(ranks: int) -> int:
    """L(p) = ceil(log2 p).

    >>> [messages(ranks) for ranks in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return (ranks - 1).bit_length()


def collective(link: Link, ranks: int, words: float, word: int = WORD) -> float:
    """alpha L(p) + b (p - 1) / p n: an all-gather of n words, and half of an all-reduce."""
    return link.alpha * messages(ranks) + words * word / link.beta * (ranks - 1) / ranks


def model(layers: Sequence[Layer], link: Link, batch: float, ranks: int, word: int = WORD) -> float:
    """Equation 3, pure model parallelism: 3 sum [alpha L(P) + b B (P-1)/P d]."""
    return 3 * sum(collective(link, ranks, batch * layer.size, word) for layer in layers)


def batch(layers: Sequence[Layer], link: Link, ranks: int, word: int = WORD, parts: int = 1) -> float:
    """Equation 4, pure batch parallelism: 2 sum [alpha L(P) + b (P-1)/P |W|].

    `parts` is into how many parts the weights are cut already: the second sum of equation 8.
    """
    return 2 * sum(collective(link, ranks, layer.weights / parts, word) for layer in layers)


def volume_ratio(layer: Layer, batch: float) -> float:
    """Equation 5: 2 |W| / (3 B d), the words that batch parallelism sends over those of model parallelism."""
    return 2 * layer.weights / (3 * batch * layer.size)


def break_even(layer: Layer) -> float:
    """The batch above which batch parallelism sends less than model parallelism: equation 5 equal to 1."""
    return volume_ratio(layer, 1)


def redistribution(layer: Layer, link: Link, batch: float, ranks: int, word: int = WORD) -> float:
    """Equation 6, from batch to model parallelism behind a layer: alpha L(P) + b B (P-1)/P d."""
    return collective(link, ranks, batch * layer.size, word)


def halo(layers: Sequence[Layer], link: Link, batch: float, parts: int, word: int = WORD) -> float:
    """First two sums of equation 7: sum [alpha + b B X_W X_C floor(k_h/2)] + sum [alpha + b B Y_W Y_C floor(k_w/2)].

    Nothing where the images are whole (`parts` is 1), and nothing, not even alpha, for a kernel of one row.
    """
    words = [count for layer in layers for count in (layer.halo_forward, layer.halo_backward) if count]
    return sum(link.alpha + batch * count * word / link.beta for count in words) if parts > 1 else 0.0


def domain(
    layers: Sequence[Layer], link: Link, batch_size: float, rows: int, columns: int = 1, word: int = WORD
) -> float:
    """Equation 7, pure domain parallelism (one column), and the last three sums of equation 9.

    Images are cut into `rows` parts, the batch into `columns`: halos of B / columns images, and 2 sum [alpha L(P) +
    b (P-1)/P |W|] over all P ranks, since each holds all weights. One row is equation 4.
    """
    return halo(layers, link, batch_size / columns, rows, word) + batch(layers, link, rows * columns, word)


def integrated(
    layers: Sequence[Layer], link: Link, batch_size: float, rows: int, columns: int, word: int = WORD
) -> float:
    """Equation 8, model and batch: 3 sum [alpha L(Pr) + b B/Pc (Pr-1)/Pr d] + 2 sum [alpha L(Pc) + b (Pc-1)/Pc |W|/Pr].

    One row is equation 4, one column equation 3.
    """
    return model(layers, link, batch_size / columns, rows, word) + batch(layers, link, columns, word, parts=rows)


def full(
    model_layers: Sequence[Layer],
    domain_layers: Sequence[Layer],
    link: Link,
    batch_size: float,
    rows: int,
    columns: int,
    word: int = WORD,
) -> float:
    """Equation 9: the rows split the weights of `model_layers` (L_M), and the images of `domain_layers` (L_D)."""
    return integrated(model_layers, link, batch_size, rows, columns, word) + domain(
        domain_layers, link, batch_size, rows, columns, word
    )
