"""Measuring this machine: how fast its ranks compute, and how long data take to move between them."""
