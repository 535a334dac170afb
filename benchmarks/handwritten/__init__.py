"""The plans that autopar should pick, written by hand: a file per model, read by `contenders/by_hand.py`."""
