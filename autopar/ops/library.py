"""Imports every operator family, which fills the registry."""

from autopar.ops import linear

__all__ = ["linear"]
