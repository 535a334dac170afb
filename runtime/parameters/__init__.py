"""Parameters, gradients and optimizer state as shards."""
