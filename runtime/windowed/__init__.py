"""Operators that read a neighbourhood: halos, wide runs of layers."""
