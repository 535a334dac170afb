"""Ranks that something stops now and then: what that makes of a step, with a queue of micro-batches and without."""
