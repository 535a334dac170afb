"""The graph of a micro-batch: the batch letter followed through a graph, and the graph divided along it."""
