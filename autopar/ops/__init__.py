"""Operators: the letter notation (`rule`), the record (`op`), and one file per operator family, listed in `library`."""
