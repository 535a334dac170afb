"""Saving and loading checkpoints, beside torch.save and torch.distributed.checkpoint: ``python -m benchmarks.checkpoint``."""
