"""Two hosts made on one machine, for what a slow link does; ``python -m benchmarks.several_hosts``."""
