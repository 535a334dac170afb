"""From a captured graph to a simpler one that means the same."""
