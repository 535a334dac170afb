"""torch's tracing, and what is put in other words for it."""
