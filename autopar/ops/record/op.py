"""One record per operator.

Adding an operator is one `register(Op(...))` in one file of `autopar.ops.library`. A generic test
(`tests/ops/library/test_rules.py`) then proves every letter of its rule by execution on the own samples of the record.
A user's own operator gets its record by `register_operator`, which is `autopar.register_operator` (docs/adding_an_operator.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction

from autopar.errors import refusal
from autopar.ops.record.emit_context import Emit
from autopar.ops.record.rule import Call, Rule


@dataclass(frozen=True, slots=True)
class T:
    """A tensor in a sample: its shape and what it is filled with.

    With a gradient: ``"normal"``, ``"unit"`` (in (0.1, 0.9)), ``"complex"`` (complex128), ``"definite"`` (matrices that
    are symmetric and positive definite). Without: ``"constant"``
    (normal), ``"positive"`` (in (0.5, 1.5)), ``"probabilities D"`` (positive, sum 1 along dim D), ``"bool"``, ``"mask"``
    (bool, at least one true along the last dim); and int64: ``"index N"`` (below N), ``"labels N"`` (below N, some of
    them -100), ``"sorted N"`` (ascending along the last dim), ``"distinct N"`` (no number twice along the last dim).
    Real ones are float64; ``"float32"``, ``"float16"`` or ``"bfloat16"`` in front makes them that, compared as exactly
    as the dtype allows: ``"bfloat16 unit"``, ``"float32"`` for ``"float32 normal"``.
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
    """Communication inside a distributed form over the axis that splits a letter: bytes per rank, both ways.

    The bytes are those of the whole call; of `letters`, those that other axes split, a rank's message has its part only.
    """

    primitive: str  # "all_sum" or "halo"
    forward: float
    adjoint: float
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """Everything about one operator. Two records are never equal, so that they are quick keys.

    targets   the ATen overloads it covers, as ``"aten.linear.default"``
    rule      the letters of a call; raises ValueError for a form it does not cover, which then runs whole on every rank
    emit      ``emit(ctx: EmitContext) -> str``, the Python expression of the rank-local call
    work      the class whose rate prices it: matmul, conv, attention, pointwise, reduce, memory, or view (free)
    flops     forward operations of the whole call; default: two per point of the letter space for matmul, conv and
              attention, one per result element otherwise
    backward  backward operations per forward operation
    saves     what backward reads, for its price: "inputs", "output", or "" (nothing)
    keeps     what autograd keeps for backward where `saves` does not say it: words of `autopar.ops.saved_tensors`, or a function
              ``keeps(call, rule, split letters) -> words``
    inner     communication inside the distributed form when a letter is split; windows are accounted for already
    skew      operations of a rank over its share of a split letter's rows, where it has those between two shares of all
              (0 to 1/2: the first half)
    launches  small operations that the distributed form takes beside the call itself when a letter is split, (forward,
              backward): each takes the time that any operator takes
    random    it draws random numbers: such calls keep their order in the program (`autopar.runtime.grid.counter_rng`)
    unless    of a random operator: the calls that draw none after all, as a dropout of nothing
    note      letters as one line for reports and docs
    means     what a target of ours (``"autopar.x"``, which torch does not have) computes, as a function of the node's
              arguments; it returns a tensor, or a tuple with one entry per result
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
    means: Callable[..., object] | None = None
    skew: Callable[[Call, Rule, str, Fraction, Fraction], float] | None = None
    launches: Callable[[Call, Rule, str], tuple[int, int]] | None = None
    random: bool = False
    unless: Callable[[Call], bool] | None = None
    keeps: str | Callable[[Call, Rule, Collection[str]], str] | None = None

    def draws(self, call: Call) -> bool:
        """Whether a call draws random numbers, in training."""
        return self.random and not (self.unless is not None and self.unless(call))


LIBRARY: dict[str, Op] = {}  # the records of `autopar.ops.library`, by target, once its modules are loaded
_HOMES: dict[Op, str] = {}  # the module that a record of the library stands in


def register(op: Op) -> Op:
    """Make `op` the record of its targets. A target that has one already is a mistake of ours."""
    taken = [target for target in op.targets if target in LIBRARY]
    if taken:
        raise ValueError(refusal(f"operator {op.name}", "registered twice", "one record per ATen target", taken))
    LIBRARY.update(dict.fromkeys(op.targets, op))
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    assert frame is not None
    _HOMES[op] = frame.f_globals["__name__"]
    return op


def per_element(operations: float) -> Callable[[Call, Rule], float]:
    """A price: so many operations for every element of operand 0."""
    return lambda call, rule: operations * call.operands[0].numel


def contraction(
    name: str,
    targets: tuple[str, ...],
    note: str,
    rule: Callable[[Call], Rule],
    emit: Emit,
    *samples: Sample,
    flops: Callable[[Call, Rule], float] | None = None,
    means: Callable[..., object] | None = None,
    work: str = "matmul",
) -> Op:
    """Register a record of a contraction of two factors: the gradient of each is a contraction, too."""
    op = Op(name, targets, note, rule, emit, work=work, flops=flops, backward=2.0, samples=samples, means=means)
    return register(op)


def memory(
    name: str,
    targets: tuple[str, ...],
    note: str,
    rule: Callable[[Call], Rule],
    emit: Emit,
    *samples: Sample,
    saves: str = "",
    work: str = "memory",
) -> Op:
    """Register a record of an operator that moves numbers and computes none."""
    return register(Op(name, targets, note, rule, emit, work=work, saves=saves, samples=samples))


def view(
    name: str, targets: tuple[str, ...], note: str, rule: Callable[[Call], Rule], emit: Emit, *samples: Sample
) -> Op:
    """Register a record of an operator that moves nothing: its result lies where its operand does."""
    return memory(name, targets, note, rule, emit, *samples, work="view")


def home_of(op: Op) -> str:
    """The module that registered a record: its family."""
    return _HOMES[op]
