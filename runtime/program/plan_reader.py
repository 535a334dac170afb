"""What the runtime needs to know of ``plan.json``: names, shapes, dtypes and hashes. The rest is not read.

The file is plain JSON with a schema version. It is read defensively: a damaged file, or one of another version, is
refused with the place and what to do, never by a KeyError.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.batch_sizes import ANY, Sizes
from autopar.version import __version__

VERSION = 2
KINDS = ("parameter", "frozen", "buffer", "constant")
_AGAIN = "compile the model again with `autopar compile`"


@dataclass(frozen=True, slots=True)
class Described:
    """An input, parameter or buffer of the sequential model: name, whole shape, dtype, kind, and tied names."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str = "parameter"  # or "frozen", "buffer", "constant", "input"
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """What a program returns beside the loss: its path in what the model returns, its whole shape, dims that are rows."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What a program expects: inputs in the order of forward's arguments, parameters and buffers, and its origin.

    `model_path` is relative to the plan's folder, and empty for a model that was compiled live. `sha256` is the
    plan's own. `filled` are the factors of which every rank must hold a row, see `autopar.runtime.parameters.minimum_rows`.
    `batched` are the inputs whose dim 0 is the batch of `rows`; a step may bring one of `sizes` of them, unless `fixed` says
    why not. `loss` is the path of the loss in what the model returns, `evaluation` says why the program cannot evaluate, and
    `training` why it cannot be put into training; it starts in evaluation if it `evaluates`.
    `filled_by_rows` are those of the filled factors that grow with the batch. `optimizer` is what the plan was made for.
    """

    name: str
    grid: str
    inputs: tuple[Described, ...]
    parameters: tuple[Described, ...]
    model_path: str = ""
    model_attribute: str = "model"
    model_sha256: str = ""
    program_sha256: str = ""
    sha256: str = ""
    filled: tuple[tuple[tuple[str, ...], int], ...] = ()
    loss: str = ""
    outputs: tuple[Output, ...] = ()
    evaluation: str = ""
    training: str = ""
    evaluates: bool = False
    filled_by_rows: tuple[tuple[tuple[str, ...], int], ...] = ()
    rows: int = 0
    batched: tuple[str, ...] = ()
    fixed: str = ""
    optimizer: str = "adamw"
    sizes: Sizes = ANY
    others: tuple[int, ...] = ()  # numbers of rows with a program of their own

    def accepts(self, rows: int) -> bool:
        """Whether the program takes a batch of so many rows."""
        return rows == self.rows or (not self.fixed and self.sizes.accepts(rows))


def read_description(path: Path) -> Description:
    """Read ``plan.json``. Raises ProgramMismatch where it is missing, damaged, or of another version or release."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        rule = "plan.json stands beside program.py"
        raise ProgramMismatch(refusal(str(path), f"cannot be read: {error}", rule, fix=_AGAIN)) from error
    return parse_description(text, str(path))


def parse_description(text: str, where: str) -> Description:
    """The description in a plan's JSON text. Raises ProgramMismatch; `where` names the plan in messages."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _damaged(where, f"it holds a {type(data).__name__}, not an object")
    _check_version(data, where)
    try:
        return _from_data(data, hashlib.sha256(text.encode()).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise _damaged(where, what) from error


def dtype_of(name: str) -> torch.dtype:
    """``"float32"`` as a torch dtype. Raises ValueError."""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The inverse of `dtype_of`.

    >>> dtype_name(torch.float32)
    'float32'
    """
    return str(dtype).removeprefix("torch.")


def _check_version(data: Mapping[str, Any], where: str) -> None:
    version, release = data.get("version"), data.get("autopar")
    if version != VERSION:
        rule = f"this release of autopar reads version {VERSION}"
        raise ProgramMismatch(refusal(where, f"schema version {version!r}", rule, fix=_AGAIN))
    if release != __version__:
        given = f"compiled by autopar {release}, and this is {__version__}"
        rule = "a program runs on the release that compiled it"
        raise ProgramMismatch(refusal(where, given, rule, fix=f"{_AGAIN}, or install autopar {release}"))


def _from_data(data: Mapping[str, Any], digest: str) -> Description:
    model, batch = data["model"], data.get("batch", {})
    parameters = tuple(_described(item) for item in data["parameters"])
    unknown = sorted({item.kind for item in parameters} - set(KINDS))
    if unknown:
        raise ValueError(f"kind {unknown[0]!r} is none of {', '.join(KINDS)}")
    return Description(
        name=_text(data["name"]),
        grid=_text(data["grid"]),
        inputs=tuple(_described({**item, "kind": "input"}) for item in data["inputs"]),
        parameters=parameters,
        model_path=_text(model["path"]),
        model_attribute=_text(model.get("attribute", "model")),
        model_sha256=_text(model["sha256"]),
        program_sha256=_text(data["program_sha256"]),
        sha256=digest,
        filled=_filled(data.get("filled", ())),
        loss=_text(data.get("loss", "")),
        outputs=tuple(_output(item) for item in data.get("outputs", ())),
        evaluation=_text(data.get("evaluation", "")),
        training=_text(data.get("training", "")),
        evaluates=bool(data.get("evaluates", False)),
        filled_by_rows=_filled(batch.get("filled", ())),
        rows=int(batch.get("rows", 0)),
        batched=tuple(map(_text, batch.get("inputs", ()))),
        fixed=_text(batch.get("fixed", "")),
        optimizer=_text(data.get("options", {}).get("optimizer", "adamw")),
        sizes=_sizes(batch.get("sizes", {})),
        others=tuple(map(int, batch.get("others", ()))),
    )


def _sizes(data: Mapping[str, Any]) -> Sizes:
    least, most, multiple, remainder = (
        int(data.get(key, default)) for key, default in (("least", 1), ("most", 0), ("multiple", 1), ("remainder", 0))
    )
    without, why = tuple(map(int, data.get("without", ()))), tuple(map(_text, data.get("why", ())))
    return Sizes(least, most, max(1, multiple), remainder, without, why)


def _filled(rows: Sequence[Any]) -> tuple[tuple[tuple[str, ...], int], ...]:
    return tuple((tuple(map(_text, axes)), int(extent)) for axes, extent in rows)


def _output(item: Mapping[str, Any]) -> Output:
    rows = tuple(map(int, item.get("rows", ())))
    return Output(_text(item["name"]), tuple(map(int, item["shape"])), dtype_of(_text(item["dtype"])), rows)


def _described(item: Mapping[str, Any]) -> Described:
    shape = tuple(item["shape"])
    if any(not isinstance(extent, int) or extent < 0 for extent in shape):
        raise ValueError(f"{item['name']!r} has shape {item['shape']!r}")
    aliases = tuple(_text(alias) for alias in item.get("aliases", ()))
    return Described(_text(item["name"]), shape, dtype_of(_text(item["dtype"])), _text(item["kind"]), aliases)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} stands where a text is expected")
    return value


def _damaged(where: str, what: str) -> ProgramMismatch:
    rule = "plan.json is the file that `autopar compile` wrote beside the program"
    return ProgramMismatch(refusal(where, f"damaged: {what}", rule, fix=_AGAIN))
