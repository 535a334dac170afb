"""Segments in time: the schedule of a pipeline, its text, its proof."""
