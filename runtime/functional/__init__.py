"""Distributed forms of operators, made of primitives."""
