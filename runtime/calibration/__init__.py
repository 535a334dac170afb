"""Measuring this machine: rates, links, their fits."""
