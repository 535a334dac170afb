"""From an `nn.Module` to our Graph."""
