"""A graph divided over the positions of a place axis: what may stand where, and what the plan says of it."""
