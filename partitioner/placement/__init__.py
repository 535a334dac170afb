"""Which position of a place axis computes which calls: the graph divided into segments, and these placed."""
