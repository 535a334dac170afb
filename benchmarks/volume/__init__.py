"""A volume that one rank may not hold; ``python -m benchmarks.volume``."""
