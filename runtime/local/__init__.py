"""What a program calls and what sends nothing of its own."""
