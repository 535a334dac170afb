"""``autopar checkpoint list DIR`` and ``verify DIR``: what is in a folder of checkpoints, and whether it is what was written.

With ``--json`` a list of objects: ``path``, ``step``, ``grid``, ``bytes``, ``tensors``, ``faults``. `verify` reads every file, and
its status is 1 where a checkpoint is not whole.

``autopar checkpoint export DIR --to FOLDER`` writes the weights of one as others read them; with ``--json`` an object: ``path``,
``checkpoint``, ``step``, ``tensors``, ``bytes``, ``files``, ``notes``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from autopar.ir.units import bytes_text

NAME = "checkpoint"
TEXT = "list, verify or export what `autopar run --checkpoint` has saved"
DTYPES = ("bfloat16", "float16", "float32", "float64")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "action",
        choices=["list", "verify", "export"],
        help="list: the indexes alone are read; verify: every file; export: the weights of the newest whole one go --to a place",
    )
    parser.add_argument("folder", help="a folder of checkpoints, or one of them")
    export = parser.add_argument_group("of export")
    export.add_argument("--to", type=Path, metavar="FOLDER", help="where weights go, a folder or a file x.safetensors")
    export.add_argument("--dtype", choices=DTYPES, help="of floating-point weights (the checkpoint's)")
    export.add_argument(
        "--shard-bytes", metavar="SIZE", help="most bytes of a file, as in 5GB: several files and an index"
    )
    like = "a folder of save_pretrained: its configuration and tokenizer come beside, so that from_pretrained reads the new one"
    export.add_argument("--like", type=Path, metavar="FOLDER", help=like)
    export.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="a name, or a beginning; repeatable"
    )
    export.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Look and print; 1 where a checkpoint is not whole."""
    if arguments.action == "export":
        return _export(arguments)
    _refuse_options(arguments)
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


def _export(arguments: argparse.Namespace) -> int:
    import torch

    from autopar.cli.tables import say
    from autopar.errors import ConfigError, refusal
    from autopar.ir.units import parse_bytes
    from autopar.runtime.checkpoint.export import ExportOptions, export

    problems = [f"--rename {pair}: it is OLD=NEW" for pair in arguments.rename if "=" not in pair]
    if arguments.to is None:
        problems.append("there is no --to FOLDER")
    if problems:
        raise ConfigError(refusal("checkpoint export", "not understood", "see --help", problems))
    options = ExportOptions(
        dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        shard_bytes=parse_bytes(arguments.shard_bytes) if arguments.shard_bytes else None,
        like=arguments.like,
        names=dict(pair.split("=", 1) for pair in arguments.rename) or None,
        overwrite=arguments.overwrite,
    )
    done = export(Path(arguments.folder), arguments.to, options)
    if arguments.json:
        print(json.dumps(asdict(done), default=str))
        return 0
    say(f"exported   {done.checkpoint}, step {done.step}: {done.tensors} tensors, {bytes_text(done.bytes)}")
    say(*(f"note       {line}" for line in done.notes))
    say(f"wrote      {done.path}: {', '.join(done.files[:3])}{' ...' if len(done.files) > 3 else ''}")
    return 0


def _refuse_options(arguments: argparse.Namespace) -> None:
    from autopar.errors import ConfigError, refusal

    names = ("to", "dtype", "shard_bytes", "like", "rename", "overwrite")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
    if given:
        rule = "these options are of `autopar checkpoint export`"
        raise ConfigError(refusal(f"checkpoint {arguments.action}", "options of export", rule, given))


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
