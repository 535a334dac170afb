"""``autopar checkpoint list DIR`` and ``verify DIR``: what is in a folder of checkpoints, and whether it is what was written.

With ``--json`` a list of objects: ``path``, ``step``, ``grid``, ``bytes``, ``tensors``, ``faults``. `verify` reads every file, and
its status is 1 where a checkpoint is not whole.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from autopar.ir.units import bytes_text

NAME = "checkpoint"
TEXT = "list or verify what `autopar run --checkpoint` has saved"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "action", choices=["list", "verify"], help="list: the indexes alone are read; verify: every file"
    )
    parser.add_argument("folder", help="a folder of checkpoints, or one of them")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Look and print; 1 where a checkpoint is not whole."""
    from autopar.errors import CheckpointError, refusal
    from autopar.runtime.checkpoint.folders import listed

    folder, verifies = Path(arguments.folder), arguments.action == "verify"
    rows = listed(folder, read=verifies)
    if not rows:
        rule = "a checkpoint is a folder step-00000120 with an index.json"
        raise CheckpointError(refusal(arguments.folder, "there is no checkpoint in it", rule))
    said: list[dict[str, object]] = [
        {
            "path": str(path),
            "step": index.step if index else None,
            "grid": index.grid if index else None,
            "bytes": sum(file.bytes for file in index.files.values()) if index else None,
            "tensors": len(index.tensors) if index else None,
            "faults": faults,
        }
        for path, index, faults in rows
    ]
    if arguments.json:
        print(json.dumps(said))
    else:
        _show(said, verifies)
    return int(any(row["faults"] for row in said))


def _show(said: list[dict[str, object]], verifies: bool) -> None:
    from autopar.cli.tables import show, table

    listing = table("checkpoint", "step", "grid", "size", "tensors", "")
    for row in said:
        size = row["bytes"]
        faults = row["faults"]
        whole = "whole" if verifies else ""
        state = "; ".join(map(str, faults)) if isinstance(faults, list) and faults else whole
        cells = [str(row[key]) if row[key] is not None else "" for key in ("path", "step", "grid")]
        listing.add_row(*cells, bytes_text(size) if isinstance(size, int) else "", str(row["tensors"] or ""), state)
    show(listing)
