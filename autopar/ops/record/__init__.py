"""The notation of a record: letters, windows, factors, and how a call is printed."""
