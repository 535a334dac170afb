"""Seconds and bytes of the steps of a program."""
