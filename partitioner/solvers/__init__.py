"""Answers to the abstract problem."""
