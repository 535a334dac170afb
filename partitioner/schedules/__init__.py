"""In which order every position works through its segments and micro-batches."""
