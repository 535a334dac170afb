"""The module without memory, its export, and the exported trace in words that a graph can have."""
