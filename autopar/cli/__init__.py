"""The command line: ``autopar compile | inspect | explain | run | verify``, one file per command."""

from autopar.cli.main import main

__all__ = ["main"]
