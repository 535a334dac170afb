"""Inference from files: every rank reads its part of the inputs, and writes its part of the outputs."""
