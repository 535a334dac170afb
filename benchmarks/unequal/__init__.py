"""Plans for ranks of which some have half the speed and half the memory: ``python -m benchmarks.unequal``."""
