"""A paper's figures from its equations; `python -m benchmarks.gholami2018`."""
