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

from autopar.analysis.split_summary import cuts_sentence
from autopar.errors import PlanError, refusal
from autopar.ir.grid import GridShape
from autopar.ir.pipeline.placement_plan import PlacementPlan
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
class PlaceChange:
    """Calls, `times` in number, that stand elsewhere: positions in the first plan and the second, None of a whole graph."""

    module: str
    times: int
    before: int | None
    after: int | None


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
    places: tuple[PlaceChange, ...] = ()

    @property
    def moved(self) -> int:
        """The number of calls whose split differs."""
        return sum(call.times for call in self.calls)


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
        _places(pairs, first.placement, second.placement),
    )


_Pairs = Sequence[tuple[NodePlan, NodePlan]]


def _paired(first: Plan, second: Plan) -> tuple[_Pairs, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The calls that both have, and the names of those that one has."""
    known = {(node.name, node.target): node for node in second.nodes}
    pairs = [(node, known[key]) for node in first.nodes if (key := (node.name, node.target)) in known]
    if 2 * len(pairs) < min(len(first.nodes), len(second.nodes)):
        counts = f"{len(pairs)} of {len(first.nodes)} and {len(second.nodes)} calls"
        fault = f"{first.name} and {second.name} have {counts} in common"
        rule = "two plans of one model are compared, or of two that share half of the smaller one's calls"
        fix = "name plans of the same model; their grids and machines may differ"
        raise PlanError(refusal("diff", fault, rule, fix=fix))
    shared = {node.name for node, _ in pairs}
    left, right = (tuple(node.name for node in plan.nodes if node.name not in shared) for plan in (first, second))
    return pairs, (left, right)


_SETTINGS = (
    "plan", "memory", "solver", "optimizer", "pins", "bans", "loss", "outputs", "measure", "microbatches", "schedule", "segments",
)  # fmt: skip


def _settings(first: Plan, second: Plan) -> Iterable[tuple[str, str, str]]:
    """What was asked for differently."""
    rows = [("grid", first.grid, second.grid), ("machine", first.machine.name, second.machine.name)]
    rows.append(("cuts", cuts_sentence(first) or "balanced", cuts_sentence(second) or "balanced"))
    if first.machine != second.machine and first.machine.name == second.machine.name:
        rows.append(("machine profile", "its numbers", "other numbers of the same name"))
    for name in _SETTINGS:
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
    before, after = first.predicted, second.predicted
    totals = [Total("step", "s", before.seconds, after.seconds), Total("compute", "s", before.compute, after.compute)]
    exchanged = before.communication + before.gradients, after.communication + after.gradients
    totals += [Total("communication", "s", *exchanged), Total("update", "s", before.update, after.update)]
    totals += [Total("memory", "B", before.bytes, after.bytes)]
    if first.placement or second.placement:
        totals.append(Total("idle", "s", before.idle, after.idle))
        cuts = (plan.placement.cut_bytes if plan.placement else 0.0 for plan in (first, second))
        totals.append(Total("between positions", "B", *cuts))
    for part in ("parameters", "gradients", "optimizer", "activations"):
        totals.append(Total(part, "B", getattr(before, f"{part}_bytes"), getattr(after, f"{part}_bytes")))
    return tuple(totals)


def _calls(pairs: _Pairs, grids: tuple[GridShape, GridShape]) -> tuple[CallChange, ...]:
    groups: dict[tuple[str, ...], list[tuple[NodePlan, NodePlan]]] = {}
    for node, other in pairs:
        if _differ(node, other, grids):
            words = _split(node, grids[0]), _split(other, grids[1])
            key = (general(node.module), node.target, node.source if not node.module else "", *words)
            groups.setdefault(key, []).append((node, other))
    changes = []
    for (module, target, _, before, after), members in groups.items():
        node = members[0][0]
        path = module if len(members) > 1 else node.module
        seconds = (sum(pair[side].seconds for pair in members) for side in (0, 1))
        changes.append(CallChange(path, target, node.source, node.code, len(members), before, after, *seconds))
    return tuple(changes)


def _differ(former: NodePlan, other: NodePlan, grids: tuple[GridShape, GridShape]) -> bool:
    if grids[0] == grids[1]:
        return [_choice(choice) for choice in former.choices] != [_choice(choice) for choice in other.choices]
    splits = ({choice.letter for choice in node.choices if choice.mode == "split"} for node in (former, other))
    return next(splits) != next(splits)


def _choice(choice: object) -> tuple[object, ...]:
    return tuple(getattr(choice, name) for name in ("mode", "letter", "blocks", "unit"))


def _split(node: NodePlan, grid: GridShape) -> str:
    """``b0/data n/model``; where nothing is split, in which way the call is whole."""
    words = [
        f"{choice.letter}{f'({choice.blocks}x_x{choice.unit})' if (choice.blocks, choice.unit) != (1, 1) else ''}/{name}"
        if choice.mode == "split"
        else f"{choice.mode}/{name}"
        for choice, name, size in zip(node.choices, grid.names, grid.sizes, strict=True)
        if size > 1
    ]
    return " ".join(words) or "whole"


def _places(pairs: _Pairs, first: PlacementPlan | None, second: PlacementPlan | None) -> tuple[PlaceChange, ...]:
    """The calls of both plans whose position is another, by module; nothing where neither graph is divided."""
    there = [_positions(placement) if placement else {} for placement in (first, second)]
    groups: dict[tuple[int | None, int | None], dict[str, int]] = {}
    for node, _ in pairs:
        before, after = (positions.get(node.name) for positions in there)
        if before != after:
            modules = groups.setdefault((before, after), {})
            modules[node.module] = modules.get(node.module, 0) + 1
    return tuple(
        PlaceChange(module, times, *places) for places, modules in groups.items() for module, times in modules.items()
    )


def _positions(placement: PlacementPlan) -> dict[str, int]:
    """The position of every call."""
    return {name: segment.position for segment in placement.segments for name in segment.calls}


def general(path: str) -> str:
    """A path with its numbers left out: ``h.*.mlp`` for ``h.3.mlp``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)


def _homes(first: Plan, second: Plan) -> tuple[HomeChange, ...]:
    known = {tensor.name: tensor for tensor in (*second.inputs, *second.parameters)}
    groups: dict[tuple[object, ...], list[str]] = {}
    for tensor in (*first.inputs, *first.parameters):
        other = known.get(tensor.name)
        if other is not None and tensor.layouts != other.layouts:
            key = (general(tensor.name), tensor.kind, tensor.layouts, other.layouts)
            groups.setdefault(key, []).append(tensor.name)
    return tuple(
        HomeChange(str(name) if len(members) > 1 else members[0], str(kind), len(members), before, after)  # type: ignore[arg-type]
        for (name, kind, before, after), members in groups.items()
    )


def _conversions(first: Plan, second: Plan) -> tuple[Surplus, ...]:
    runs, rows = zip(*(_runs(plan) for plan in (first, second)), strict=True)
    surplus = []
    for sign, side in (("-", 0), ("+", 1)):
        for key, times in (runs[side] - runs[1 - side]).items():
            moved, seconds = rows[side][key]
            primitive, axis, value, module = key
            surplus.append(Surplus(sign, primitive, axis, value, module, times, moved * times, seconds * times))
    return tuple(sorted(surplus, key=lambda row: (-row.seconds, row.sign, row.primitive, row.value)))


def _runs(plan: Plan) -> tuple[Counter[tuple[str, ...]], dict[tuple[str, ...], tuple[float, float]]]:
    """Per kind of conversion, inner ones among them, the runs in a step, and bytes and seconds of one run."""
    runs: Counter[tuple[str, ...]] = Counter()
    one_run: dict[tuple[str, ...], tuple[float, float]] = {}

    def add(conversion: ConversionPlan | InnerPlan, value: str, module: str, times: int) -> None:
        moved = conversion.bytes_forward + conversion.bytes_adjoint
        if moved:
            key = (conversion.primitive, conversion.axis, general_value(value), general(module))
            runs[key] += times
            one_run.setdefault(key, (moved, conversion.seconds))

    for conversion in plan.conversions:
        add(conversion, conversion.value, conversion.module, conversion.times)
    for node in plan.nodes:
        for inner in node.inner:
            add(inner, node.name, node.module, 1)
    return runs, one_run


def general_value(name: str) -> str:
    """A value's name without the number of its block: ``h_*_mlp`` for ``h_3_mlp``, ``h.*.weight`` for ``h.3.weight``."""
    return re.sub(r"(?<=[._])\d+(?=[._]|$)", "*", name)
