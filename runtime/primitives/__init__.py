"""Layout conversions and other distributed linear operators, one file each, with hand-derived adjoints."""
