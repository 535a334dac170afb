"""What differs between two plans: totals, the calls whose split differs, parameters whose homes differ, conversions.

    call        differs where its choices differ; on grids of other axes, where other letters are split
    group       calls of repeated blocks that differ in the same way are one row: ``h.*.mlp.c_fc``, 12 times
    conversion  counted per primitive, axis, value and module with its runs in a step: the surplus on either side

Plans of one model compare in full, whatever their grids and machines. Of two models, what they share is compared as long as
that is half of the smaller one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autopar.errors import PlanError, refusal
from autopar.ir.grid import GridShape
from autopar.ir.plan import ConversionPlan, InnerPlan, NodePlan, Plan


@dataclass(frozen=True, slots=True)
class Total:
    """One predicted number of a step, in `unit` (seconds or bytes), in both plans."""

    name: str
    unit: str
    before: float
    after: float

    @property
    def change(self) -> float | None:
        """The relative change, None from zero."""
        return (self.after - self.before) / self.before if self.before else None


@dataclass(frozen=True, slots=True)
class CallChange:
    """Calls, `times` in number, that are split in another way. Seconds are forward and backward of all of them."""

    module: str
    target: str
    source: str
    code: str
    times: int
    before: str
    after: str
    seconds_before: float
    seconds_after: float


@dataclass(frozen=True, slots=True)
class HomeChange:
    """Parameters or inputs, `times` in number, that lie in other layouts, one per axis."""

    name: str
    kind: str
    times: int
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surplus:
    """Runs of a primitive in a step that only one plan has: `sign` is ``-`` for the first, ``+`` for the second."""

    sign: str
    primitive: str
    axis: str
    value: str
    module: str
    times: int
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Difference:
    """All that differs. `apart` are calls that only one of the plans has, as ``(first, second)``."""

    names: tuple[str, str]
    grids: tuple[str, str]
    settings: tuple[tuple[str, str, str], ...]
    totals: tuple[Total, ...]
    calls: tuple[CallChange, ...]
    homes: tuple[HomeChange, ...]
    conversions: tuple[Surplus, ...]
    apart: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def moved(self) -> int:
        """The number of calls whose split differs."""
        return sum(one.times for one in self.calls)


def diff(first: Plan, second: Plan) -> Difference:
    """Compare two plans. Raises PlanError where they are of models that have less than half of their calls in common."""
    pairs, apart = _paired(first, second)
    grids = GridShape.parse(first.grid), GridShape.parse(second.grid)
    return Difference(
        (first.name, second.name),
        (first.grid, second.grid),
        tuple(_settings(first, second)),
        _totals(first, second),
        _calls(pairs, grids),
        _homes(first, second),
        _conversions(first, second),
        apart,
    )


_Pairs = Sequence[tuple[NodePlan, NodePlan]]


def _paired(first: Plan, second: Plan) -> tuple[_Pairs, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The calls that both have, and the names of those that one has."""
    known = {(node.name, node.target): node for node in second.nodes}
    pairs = [(node, known[key]) for node in first.nodes if (key := (node.name, node.target)) in known]
    if 2 * len(pairs) < min(len(first.nodes), len(second.nodes)):
        counts = f"{len(pairs)} of {len(first.nodes)} and {len(second.nodes)} calls"
        given = f"{first.name} and {second.name} have {counts} in common"
        rule = "two plans of one model are compared, or of two that share half of the smaller one's calls"
        fix = "name plans of the same model; their grids and machines may differ"
        raise PlanError(refusal("diff", given, rule, fix=fix))
    shared = {node.name for node, _ in pairs}
    left, right = (tuple(node.name for node in plan.nodes if node.name not in shared) for plan in (first, second))
    return pairs, (left, right)


def _settings(first: Plan, second: Plan) -> Iterable[tuple[str, str, str]]:
    """What was asked for differently."""
    rows = [("grid", first.grid, second.grid), ("machine", first.machine.name, second.machine.name)]
    if first.machine != second.machine and first.machine.name == second.machine.name:
        rows.append(("machine profile", "its numbers", "other numbers of the same name"))
    for name in ("plan", "memory", "solver", "optimizer", "pins", "bans", "loss", "outputs", "measure"):
        rows.append((name, *(_word(getattr(plan.options, name)) for plan in (first, second))))  # type: ignore[arg-type]
    if first.graph_sha256 != second.graph_sha256:
        rows.append(
            ("model", f"{first.name} ({len(first.nodes)} calls)", f"{second.name} ({len(second.nodes)} calls), another")
        )
    return [row for row in rows if row[1] != row[2]]


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _totals(first: Plan, second: Plan) -> tuple[Total, ...]:
    one, other = first.predicted, second.predicted
    found = [Total("step", "s", one.seconds, other.seconds), Total("compute", "s", one.compute, other.compute)]
    exchanged = one.communication + one.gradients, other.communication + other.gradients
    found += [Total("communication", "s", *exchanged), Total("update", "s", one.update, other.update)]
    found += [Total("memory", "B", one.bytes, other.bytes)]
    for part in ("parameters", "gradients", "optimizer", "activations"):
        found.append(Total(part, "B", getattr(one, f"{part}_bytes"), getattr(other, f"{part}_bytes")))
    return tuple(found)


def _calls(pairs: _Pairs, grids: tuple[GridShape, GridShape]) -> tuple[CallChange, ...]:
    groups: dict[tuple[str, ...], list[tuple[NodePlan, NodePlan]]] = {}
    for one, other in pairs:
        if _differ(one, other, grids):
            words = _split(one, grids[0]), _split(other, grids[1])
            key = (general(one.module), one.target, one.source if not one.module else "", *words)
            groups.setdefault(key, []).append((one, other))
    found = []
    for (module, target, _, before, after), members in groups.items():
        node = members[0][0]
        path = module if len(members) > 1 else node.module
        seconds = (sum(_seconds(pair[side]) for pair in members) for side in (0, 1))
        found.append(CallChange(path, target, node.source, node.code, len(members), before, after, *seconds))
    return tuple(found)


def _differ(one: NodePlan, other: NodePlan, grids: tuple[GridShape, GridShape]) -> bool:
    if grids[0] == grids[1]:
        return [_choice(choice) for choice in one.choices] != [_choice(choice) for choice in other.choices]
    splits = ({choice.letter for choice in node.choices if choice.mode == "split"} for node in (one, other))
    return next(splits) != next(splits)


def _choice(choice: object) -> tuple[object, ...]:
    return tuple(getattr(choice, name) for name in ("mode", "letter", "blocks", "unit"))


def _split(node: NodePlan, grid: GridShape) -> str:
    """``b0/data n/model``; where nothing is split, in which way the call is whole."""
    words = [
        f"{one.letter}{f'({one.blocks}x_x{one.unit})' if (one.blocks, one.unit) != (1, 1) else ''}/{name}"
        if one.mode == "split"
        else f"{one.mode}/{name}"
        for one, name, size in zip(node.choices, grid.names, grid.sizes, strict=True)
        if size > 1
    ]
    return " ".join(words) or "whole"


def _seconds(node: NodePlan) -> float:
    return node.seconds_forward + node.seconds_backward


def general(path: str) -> str:
    """A path with its numbers left out: ``h.*.mlp`` for ``h.3.mlp``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _homes(first: Plan, second: Plan) -> tuple[HomeChange, ...]:
    known = {one.name: one for one in (*second.inputs, *second.parameters)}
    groups: dict[tuple[object, ...], list[str]] = {}
    for one in (*first.inputs, *first.parameters):
        other = known.get(one.name)
        if other is not None and one.layouts != other.layouts:
            groups.setdefault((general(one.name), one.kind, one.layouts, other.layouts), []).append(one.name)
    return tuple(
        HomeChange(str(name) if len(members) > 1 else members[0], str(kind), len(members), before, after)  # type: ignore[arg-type]
        for (name, kind, before, after), members in groups.items()
    )


def _conversions(first: Plan, second: Plan) -> tuple[Surplus, ...]:
    runs, rows = zip(*(_runs(plan) for plan in (first, second)), strict=True)
    found = []
    for sign, side in (("-", 0), ("+", 1)):
        for key, times in (runs[side] - runs[1 - side]).items():
            moved, seconds = rows[side][key]
            primitive, axis, value, module = key
            found.append(Surplus(sign, primitive, axis, value, module, times, moved * times, seconds * times))
    return tuple(sorted(found, key=lambda one: (-one.seconds, one.sign, one.primitive, one.value)))


def _runs(plan: Plan) -> tuple[Counter[tuple[str, ...]], dict[tuple[str, ...], tuple[float, float]]]:
    """Per kind of conversion, inner ones among them, the runs in a step, and bytes and seconds of one run."""
    runs: Counter[tuple[str, ...]] = Counter()
    one_run: dict[tuple[str, ...], tuple[float, float]] = {}

    def add(one: ConversionPlan | InnerPlan, value: str, module: str, times: int) -> None:
        moved = one.bytes_forward + one.bytes_adjoint
        if moved:
            key = (one.primitive, one.axis, general_value(value), general(module))
            runs[key] += times
            one_run.setdefault(key, (moved, one.seconds_forward + one.seconds_adjoint))

    for conversion in plan.conversions:
        add(conversion, conversion.value, conversion.module, conversion.times)
    for node in plan.nodes:
        for inner in node.inner:
            add(inner, node.name, node.module, 1)
    return runs, one_run


def general_value(name: str) -> str:
    """A value's name without the number of its block: ``h_*_mlp`` for ``h_3_mlp``, ``h.*.weight`` for ``h.3.weight``."""
    return re.sub(r"(?<=[._])\d+(?=[._]|$)", "*", name)
