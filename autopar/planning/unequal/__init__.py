"""Ranks that differ in speed or memory: what each of them takes and holds, and cuts that suit them."""
