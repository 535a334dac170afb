"""From a graph and a grid to the abstract problem, and back to choices."""
