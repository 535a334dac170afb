"""`autopar run`: the loop, and the scheduler beside it."""
