"""What the runtime needs to know of ``plan.json``: names, shapes, dtypes and hashes. The rest is not read.

The file is plain JSON with a schema version. It is read defensively: a damaged file, or one of another version, is
refused with the place and what to do, never by a KeyError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autopar.errors import ProgramMismatch, refusal
from autopar.ir.batch_sizes import ANY, MicrobatchPlan, Sizes, divided_rows
from autopar.ir.machine import RankClass
from autopar.ir.pipeline.placement_plan import PlacementPlan
from autopar.ir.units import gives_back
from autopar.version import __version__

VERSION = 3
KINDS = ("parameter", "frozen", "buffer", "constant")
MinimumRows = tuple[tuple[str, ...], int]  # names of axes, extent
_INNER = {
    "model": {"path": "model_path", "attribute": "model_attribute", "sha256": "model_sha256"},
    "batch": {"inputs": "batched", "filled": "filled_by_rows"}
    | {key: key for key in ("rows", "fixed", "sizes", "others", "division")},
    "options": {"optimizer": "optimizer", "memory": "memory"},
    "placement": {"edges": "edges"},
}
"""Where the entries of inner objects of a plan stand in a `Description`."""
_REQUIRED = ("model_path", "model_sha256", "program_sha256")
_AGAIN = "compile the model again with `autopar compile`"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input, parameter or buffer of the sequential model: name, whole shape, dtype, kind, and tied names.

    Where the graph is divided, `segments` are those that read it, by their numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str = "parameter"  # or "frozen", "buffer", "constant", "input"
    aliases: tuple[str, ...] = ()
    segments: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(extent < 0 for extent in self.shape):
            raise ValueError(f"{self.name!r} has shape {self.shape!r}")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What a program returns beside the loss: its path in what the model returns, its whole shape, dims that are rows.

    `needs` are the inputs that it is made of; where the plan does not say it may need all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[int, ...] = ()
    needs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """What leaves a segment of a divided graph: its name, its whole shape, dims that are rows, whether a gradient comes back."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: tuple[int, ...] = ()
    differentiable: bool = True


@dataclass(frozen=True, slots=True)
class WorkSpec:
    """Predicted compute seconds of a step, undivided, of which a rank has the part that its rows are of every factor of `cuts`.

    Where the graph is divided, they are those of a `segment`.
    """

    cuts: tuple[MinimumRows, ...]
    seconds: float
    segment: int = 0


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of a machine profile what says how much a rank may hold; nothing where `memory_bytes` is 0."""

    memory_bytes: int = 0
    ranks_per_node: int = 1
    ranks: tuple[RankClass, ...] = ()

    def of(self, rank: int, asked: float | None) -> float | None:
        """The bytes that this rank may hold, if anything is known; where so many are `asked` for, no more than its own."""
        own = next((one.memory_bytes for one in self.ranks if one.holds(rank, self.ranks_per_node)), None)
        if asked is not None:
            return asked if own is None else min(asked, own)
        return own or self.memory_bytes or None


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What a rank is predicted to hold at the peak of a step, in bytes."""

    parameters_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    inputs_bytes: int = 0
    activations_bytes: int = 0
    buffers_bytes: int = 0
    transients_bytes: int = 0

    @property
    def beside(self) -> int:
        """All but parameters, gradients and the optimizer's state."""
        return self.inputs_bytes + self.activations_bytes + self.buffers_bytes + self.transients_bytes

    @property
    def peak(self) -> int:
        """All of it."""
        return self.beside + self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes


@dataclass(frozen=True, slots=True)
class Description:
    """What a program expects: inputs in the order of forward's arguments, parameters and buffers, and its origin.

    `model_path` is relative to the plan's folder, and empty for a model that was compiled live. `sha256` is the
    plan's own. `filled` are the factors of which every rank must hold a row, see `autopar.runtime.parameters.minimum_rows`.
    `batched` are the inputs whose dim 0 is the batch of `rows`; a step may bring one of `sizes` of them, unless `fixed` says
    why not. `loss` is the path of the loss in what the model returns, `evaluation` says why the program cannot evaluate, and
    `training` why it cannot be put into training; it starts in evaluation if it `evaluates`.
    `filled_by_rows` are those of the filled factors that grow with the batch. `optimizer` is what the plan was made for.
    `work` is what its ranks compute, by what cuts it.
    """

    name: str
    grid: str
    inputs: tuple[TensorSpec, ...]
    parameters: tuple[TensorSpec, ...]
    model_path: str = ""
    model_attribute: str = "model"
    model_sha256: str = ""
    program_sha256: str = ""
    sha256: str = ""
    filled: tuple[MinimumRows, ...] = ()
    loss: str = ""
    outputs: tuple[OutputSpec, ...] = ()
    evaluation: str = ""
    training: str = ""
    evaluates: bool = False
    filled_by_rows: tuple[MinimumRows, ...] = ()
    rows: int = 0
    batched: tuple[str, ...] = ()
    fixed: str = ""
    optimizer: str = "adamw"
    sizes: Sizes = ANY
    others: tuple[int, ...] = ()  # numbers of rows with a program of their own
    edges: tuple[EdgeSpec, ...] = ()  # of a divided graph
    placement: PlacementPlan | None = None  # what its segments cost
    work: tuple[WorkSpec, ...] = ()
    division: MicrobatchPlan | None = None  # where the program computes a batch in micro-batches
    memory: float | None = None  # bytes that a rank may hold, where the user has said so
    machine: RankMemory = RankMemory()
    predicted: StepMemory = StepMemory()

    def __post_init__(self) -> None:
        unknown = sorted({item.kind for item in self.parameters} - set(KINDS))
        if unknown:
            raise ValueError(f"kind {unknown[0]!r} is none of {', '.join(KINDS)}")
        if self.sizes.multiple < 1:
            raise ValueError(f"batches of a multiple of {self.sizes.multiple} rows")

    def limit(self, rank: int) -> float | None:
        """The bytes that a rank may hold: what the user said, or else what the machine has; None where nothing is known."""
        return self.machine.of(rank, self.memory)

    def gives_back(self, rank: int) -> bool:
        """Whether this rank gives freed memory back at once (`autopar.ir.units`)."""
        return gives_back(self.predicted.peak, self.limit(rank))

    def accepts(self, rows: int) -> bool:
        """Whether the program takes a batch of so many rows."""
        if self.division is not None:
            return bool(self.microbatches(rows))
        return rows == self.rows or (not self.fixed and self.sizes.accepts(rows))

    def microbatches(self, rows: int) -> tuple[int, ...]:
        """Where a batch of so many rows is cut into micro-batches; nothing where the program does not take it."""
        if self.division is None:
            return (0, rows) if self.accepts(rows) else ()
        return divided_rows(rows, self.rows, self.division, self.fixed, self.sizes)


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
    import msgspec  # after torch it takes three milliseconds, which it saves in reading

    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _damaged(where, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise _damaged(where, f"it holds a {type(data).__name__}, not an object")
    _check_version(data, where)
    try:
        flat = _flat(data) | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
        return msgspec.convert(flat, Description, dec_hook=lambda _, name: dtype_of(name))
    except ValueError as error:  # msgspec's own are such
        raise _damaged(where, str(error)) from error


def dtype_of(name: str) -> torch.dtype:
    """``"float32"`` as a torch dtype. Raises ValueError."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return dtype


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
        problem = f"compiled by autopar {release}, and this is {__version__}"
        rule = "a program runs on the release that compiled it"
        raise ProgramMismatch(refusal(where, problem, rule, fix=f"{_AGAIN}, or install autopar {release}"))


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a plan, those of its inner objects under the names that they have in `Description`."""
    flat = dict(data)
    for place, names in _INNER.items():
        inner = {} if data.get(place) is None else data[place]
        if not isinstance(inner, dict):
            raise ValueError(f"{place} is a {type(inner).__name__}, not an object")
        flat |= {names[key]: value for key, value in inner.items() if key in names}
    missing = [name for name in _REQUIRED if name not in flat]
    if missing:
        raise ValueError(f"there is no {', '.join(missing)}")
    return flat


def _damaged(where: str, what: str) -> ProgramMismatch:
    rule = "plan.json is the file that `autopar compile` wrote beside the program"
    return ProgramMismatch(refusal(where, f"damaged: {what}", rule, fix=_AGAIN))
