"""Moving what is sharded, between two training steps."""
