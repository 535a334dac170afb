"""One record per operator, and the registry that finds the record of a call.

Adding an operator is one `register(Op(...))` in one file of this folder. A generic test (`tests/ops/test_rules.py`)
then proves every letter of its rule by execution on the record's own samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autopar.errors import refusal
from autopar.ops.rule import Call, Rule


@dataclass(frozen=True, slots=True)
class T:
    """A tensor in a sample: its shape and what it is filled with.

    kind: ``"normal"`` (float64, with gradient), ``"unit"`` (float64 in (0.1, 0.9), with gradient), ``"constant"``
    (float64, no gradient), ``"positive"`` (float64 in (0.5, 1.5), no gradient), ``"bool"``, or ``"index N"`` (int64
    below N).
    """

    shape: tuple[int, ...]
    kind: str = "normal"


@dataclass(frozen=True, slots=True)
class Sample:
    """Arguments to call one ATen target with; tensors are given as `T`."""

    args: tuple[object, ...]
    kwargs: tuple[tuple[str, object], ...] = ()
    target: str = ""  # default: the record's first target


@dataclass(frozen=True, slots=True)
class Inner:
    """Communication inside a distributed form over the axis that splits a letter: bytes per rank, both ways."""

    primitive: str  # "all_sum" or "halo"
    forward: float
    adjoint: float


@dataclass(frozen=True, slots=True)
class Local:
    """What an emitter is told of the rank-local call: how letters are split, and the expressions of local extents.

    splits    letter -> the names of the axes that split it, outermost first (``("DATA",)``); whole letters are absent
    extent    letter -> the Python expression of its local extent, a number or a product (``"MODEL.part(6) * 64"``)
    mode      "" or what the call does on some axis where nothing is split; emitters rarely need it
    """

    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extent: Mapping[str, str] = field(default_factory=dict)

    def axes(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The axes that split any of these letters, each once."""
        return tuple(dict.fromkeys(axis for name in names for axis in self.splits.get(name, ())))


Emit = Callable[[Call, Rule, Local, tuple[Any, ...], Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class Op:
    """Everything about one operator.

    targets   the ATen overloads it covers, as ``"aten.linear.default"``
    rule      the letters of a call; raises ValueError for a form it does not cover, which then runs whole on every rank
    emit      ``emit(call, rule, local, args, kwargs) -> str``, the Python expression of the rank-local call. `args` and
              `kwargs` are the node's arguments with every tensor already replaced by an `Expr` (prints as its variable)
    work      the class whose rate prices it: matmul, conv, attention, pointwise, reduce, memory, or view (free)
    flops     forward operations of the whole call; default: two per point of the letter space for matmul, conv and
              attention, one per result element otherwise
    backward  backward operations per forward operation
    saves     what autograd keeps for backward: "inputs", "output", or "" (nothing)
    inner     communication inside the distributed form when a letter is split; windows are accounted for already
    note      letters as one line for reports and docs
    """

    name: str
    targets: tuple[str, ...]
    note: str
    rule: Callable[[Call], Rule]
    emit: Emit
    work: str = "pointwise"
    flops: Callable[[Call, Rule], float] | None = None
    backward: float = 1.0
    saves: str = "inputs"
    inner: Callable[[Call, Rule, str], tuple[Inner, ...]] | None = None
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Expr:
    """A tensor argument during emission: a Python expression; `atom` is false if it needs brackets before a dot."""

    text: str
    atom: bool = True

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


_REGISTRY: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Make `op` the record of its targets. A target that has one already is a mistake of ours."""
    taken = [target for target in op.targets if target in _REGISTRY]
    if taken:
        raise ValueError(refusal(f"operator {op.name}", "registered twice", "one record per ATen target", taken))
    _REGISTRY.update(dict.fromkeys(op.targets, op))
    return op


def registry() -> dict[str, Op]:
    """Every record by ATen target."""
    import autopar.ops.library  # noqa: F401  (fills the registry; importing it any earlier would be a cycle)

    return dict(_REGISTRY)
