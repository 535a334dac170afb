"""The command line: ``autopar compile | inspect | explain | run | verify | ...``, one file per command."""

import gc

from autopar.cli.main import main

__all__ = ["console", "main"]


def console() -> int:
    """The installed command. Its process ends with it, so that garbage is looked for rarely, and not at all at the end."""
    gc.set_threshold(200_000)  # tracing a model makes many objects, and they stay
    status = main()
    gc.freeze()
    return status
