"""For which numbers of rows, and in which mode, a capture holds."""
