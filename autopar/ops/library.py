"""Imports every operator family, which fills the registry."""

from autopar.ops import (
    arithmetic,
    attention,
    constants,
    convolution,
    elementwise,
    embedding,
    linear,
    losses,
    matmul,
    normalization,
    pieces,
    pooling,
    reductions,
    reshape,
)

__all__ = [
    "arithmetic",
    "attention",
    "constants",
    "convolution",
    "elementwise",
    "embedding",
    "linear",
    "losses",
    "matmul",
    "normalization",
    "pieces",
    "pooling",
    "reductions",
    "reshape",
]
