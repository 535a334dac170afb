"""What forward reads and leaves behind beside its inputs: attributes, buffers, hooks, random numbers of the host."""
