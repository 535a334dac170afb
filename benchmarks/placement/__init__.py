"""Placement beside the oracle and the baselines, on drawn graphs: ``python -m benchmarks.placement``"""
