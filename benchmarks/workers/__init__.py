"""What benchmarks start in processes of their own, most under mpiexec: ``python -m benchmarks.workers.NAME``."""
