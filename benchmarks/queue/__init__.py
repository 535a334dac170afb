"""Micro-batches from a queue beside a static division, on ranks that are stalled now and then; ``python -m benchmarks.queue``."""
