"""What the scheduler does when a rank gets slower, and what a move costs: ``python -m benchmarks.rebalance``."""
