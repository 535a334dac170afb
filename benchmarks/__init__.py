"""Measurements and long checks, which are not installed: ``python -m benchmarks.step_time`` at the root of the project."""
