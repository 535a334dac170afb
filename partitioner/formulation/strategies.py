"""What every call, parameter and input of a graph may do on a whole grid.

A *strategy* of a call is one `Choice` per axis, of a parameter or input one layout per axis (its storage layout). All axes are
chosen together: solving axis after axis degenerates to batch parallelism everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopar.costmodel.local_shapes import compatible
from autopar.errors import ConfigError, refusal
from autopar.ir.graph import Graph, Node, Value
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Layout, Layouts, Partial, Replicate, Shard
from autopar.ops.annotated import AnnotatedCall, AnnotatedGraph
from autopar.ops.broken_records import rehearse
from autopar.ops.record.rule import Call, Choice, Rule, choices, fills, whole_choice
from autopar.partitioner.formulation.call_signature import signature_of
from autopar.partitioner.formulation.choice_patterns import choice_matches
from autopar.partitioner.formulation.dim_factors import of_letters, propagate
from autopar.partitioner.formulation.mixed_choices import MOST, mixtures

Strategy = tuple[Choice, ...]  # one choice per axis


@dataclass(frozen=True, slots=True)
class CallStrategies(AnnotatedCall):
    """A call with everything that it may do."""

    strategies: tuple[Strategy, ...]


def strategies_of(
    annotated: AnnotatedGraph,
    grid: GridShape,
    pins: Mapping[str, Mapping[int, str]],
    bases: Mapping[str, Sequence[Strategy]] | None = None,
) -> dict[str, CallStrategies]:
    """Every node with its legal strategies. `pins` maps a node's name to the letter (or mode) it must take per axis.

    Calls that are alike share one tuple of strategies. With `bases` these are mixtures of what they list for a call, or for one
    that is alike, instead of all that there are.
    """
    factors = propagate(annotated)
    letters = {name: of_letters(factors, item) for name, item in annotated.calls.items()}
    keys = {
        name: (
            signature_of(item.call),
            id(item.op),
            tuple(sorted(pins.get(name, {}).items())),
            tuple(sorted(letters[name].items())),
        )
        for name, item in annotated.calls.items()
    }
    near: dict[tuple[object, ...], dict[Strategy, None]] = {}
    for name, some in (bases or {}).items():
        near.setdefault(keys[name], {}).update(dict.fromkeys(some))
    calls: dict[str, CallStrategies] = {}
    alike: dict[tuple[object, ...], CallStrategies] = {}
    for name, item in annotated.calls.items():
        pinned, key = pins.get(name, {}), keys[name]
        if key not in alike or alike[key].rule != item.rule:
            rehearse(item.op, item.rule, item.call)
            around = None if bases is None else tuple(near.get(key, ()))
            strategies = _strategies(item, letters[name], grid, pinned, around)
            if not strategies:
                raise _unmeetable(item.node, pinned, grid)
            alike[key] = CallStrategies(item.node, item.op, item.call, item.rule, strategies)
        calls[name] = CallStrategies(item.node, item.op, item.call, alike[key].rule, alike[key].strategies)
    return calls


def _unmeetable(node: Node, pinned: Mapping[int, str], grid: GridShape) -> ConfigError:
    fault = "the call cannot do what is pinned"
    rule = "a dim is split at most as often as it has rows, a windowed one over one axis; heavy calls are never copied"
    offenders = [f"{choice}@{grid.names[axis]}" for axis, choice in sorted(pinned.items())]
    fix = "take one of the pins away, or pin another letter"
    return ConfigError(refusal(f"pins on {node.module or node.name} ({node.source})", fault, rule, offenders, fix))


def _strategies(
    item: AnnotatedCall,
    factors: Mapping[str, tuple[tuple[int, int], ...]],
    grid: GridShape,
    pinned: Mapping[int, str],
    bases: Sequence[Strategy] | None,
) -> tuple[Strategy, ...]:
    call, rule = item.call, item.rule
    each = tuple(choice for choice in choices(rule, call, factors) if not _sums_constants(choice, call))
    if item.op.work not in ("view", "pointwise", "memory"):
        each = tuple(choice for choice in each if choice.mode != "copied")
    per_axis = [_on_axis(each, rule, size, pinned.get(axis)) for axis, size in enumerate(grid.sizes)]
    if not all(per_axis):
        return ()
    every = itertools.product(*per_axis) if bases is None else mixtures(bases, per_axis)
    able = (
        strategy
        for strategy in every
        if legal(strategy, call, rule, grid) and _gives_rows(strategy, rule, grid, pinned)
    )
    return tuple(able if bases is None else itertools.islice(able, MOST))


def _sums_constants(choice: Choice, call: Call) -> bool:
    """Whether a tensor without gradient would be a partial sum: the conversions know none."""
    pairs = zip((*choice.operands, *choice.results), (*call.operands, *call.results), strict=True)
    return any(isinstance(layout, Partial) and not value.differentiable for layout, value in pairs)


def _on_axis(every: tuple[Choice, ...], rule: Rule, size: int, pin: str | None) -> list[Choice]:
    """The choices open on an axis of this size: a split must give every rank a row, unless the user pinned it."""
    if size == 1:
        return [choice for choice in every if choice.mode == "replicate"]
    if pin is not None:
        return [choice for choice in every if choice_matches(choice, pin)]
    return [
        choice
        for choice in every
        if choice.mode != "split" or rule.extents[choice.letter] // (choice.blocks * choice.unit) >= size
    ]


def legal(strategy: Strategy, call: Call, rule: Rule, grid: GridShape) -> bool:
    """Whether the tensors of a call can lie as a strategy wants them."""
    windowed = [choice.letter for choice in strategy if choice.letter in rule.windows]
    if len(windowed) != len(set(windowed)):
        return False  # a windowed letter is exchanged over one axis only
    if not fills(rule, strategy, grid.sizes):
        return False
    tensors = [(value, operand_layouts(strategy, i)) for i, value in enumerate(call.operands)]
    tensors += [(value, result_layouts(strategy, i)) for i, value in enumerate(call.results) if value.name]
    return all(compatible(value.shape, layouts, grid) for value, layouts in tensors)


def _gives_rows(strategy: Strategy, rule: Rule, grid: GridShape, pinned: Mapping[int, str]) -> bool:
    """Whether several axes that cut one factor of a letter together leave every rank a row, unless the user pinned them all."""
    parts: dict[tuple[str, int, int], int] = {}
    free: set[tuple[str, int, int]] = set()
    for axis, (choice, size) in enumerate(zip(strategy, grid.sizes, strict=True)):
        if choice.mode == "split":
            factor = (choice.letter, choice.blocks, choice.unit)
            parts[factor] = parts.get(factor, 1) * size
            free |= {factor} if axis not in pinned else set()
    return all(rule.extents[letter] // (blocks * unit) >= parts[letter, blocks, unit] for letter, blocks, unit in free)


def filled_factors(rule: Rule, strategy: Strategy) -> tuple[tuple[tuple[int, ...], int], ...]:
    """What must be cut such that every rank has a row: the axes that cut one factor of a filled letter, and its extent."""
    cuts: dict[tuple[str, int, int], list[int]] = {}
    for axis, choice in enumerate(strategy):
        if choice.mode == "split" and choice.letter in rule.filled:
            cuts.setdefault((choice.letter, choice.blocks, choice.unit), []).append(axis)
    return tuple(
        (tuple(axes), rule.extents[letter] // (blocks * unit)) for (letter, blocks, unit), axes in cuts.items()
    )


def operand_layouts(strategy: Strategy, operand: int) -> Layouts:
    """The layouts over all axes that a call under this strategy needs its operand in."""
    return tuple(choice.operands[operand] for choice in strategy)


def result_layouts(strategy: Strategy, result: int) -> Layouts:
    """The layouts over all axes in which a call under this strategy yields a result."""
    return tuple(choice.results[result] for choice in strategy)


def whole_strategy(call: Call, grid: GridShape) -> Strategy:
    """Every rank computes the whole call."""
    return tuple(whole_choice(call, "replicate") for _ in grid.sizes)


def storage_layouts(value: Value, demanded: Iterable[Layouts], grid: GridShape) -> tuple[Layouts, ...]:
    """The layouts a parameter or input may live in: those its users ask for, a Partial one being kept whole instead."""
    layouts: dict[Layouts, None] = {tuple(Replicate() for _ in grid.sizes): None}
    layouts.update(dict.fromkeys(map(_kept_whole, demanded)))
    plain = layouts if value.differentiable else dict.fromkeys(tuple(map(_plain, stored)) for stored in layouts)
    return tuple(stored for stored in plain if compatible(value.shape, stored, grid))


def gathered_storage_layouts(value: Value, demanded: Iterable[Layouts], grid: GridShape) -> dict[Layouts, Layouts]:
    """The layouts in which a parameter may lie in parts along its first dim where its users want it Copied, each with what it is
    gathered to (of several the one that takes most memory).

    It is gathered before use, kept whole for backward, and its gradient reduce-scattered (ZeRO, FSDP): less memory, more messages.
    """
    gathered: dict[Layouts, Layouts] = {}
    if not (value.differentiable and value.shape):
        return gathered
    for used in map(_kept_whole, demanded):
        options: list[list[Layout]] = [
            [layout, Shard(0)] if isinstance(layout, Copied) and value.shape[0] >= size else [layout]
            for layout, size in zip(used, grid.sizes, strict=True)
        ]
        for stored in itertools.product(*options):
            if stored != used and compatible(value.shape, stored, grid):
                known = gathered.setdefault(stored, used)
                gathered[stored] = max(
                    known, used, key=lambda layouts: sum(isinstance(layout, Copied) for layout in layouts)
                )
    return gathered


def _kept_whole(layouts: Layouts) -> Layouts:
    return tuple(Replicate() if isinstance(layout, Partial) else layout for layout in layouts)


def _plain(layout: Layout) -> Layout:
    return Replicate() if isinstance(layout, Copied) else layout


def demands(graph: Graph, calls: Mapping[str, CallStrategies]) -> dict[str, tuple[Layouts, ...]]:
    """Per value, the distinct layouts in which its consumers may ask for it."""
    by_operand: dict[tuple[int, int], Sequence[Layouts]] = {}  # by the identity of shared strategies, and the operand
    demanded: dict[str, dict[Layouts, None]] = {name: {} for name in graph.values}
    for item in calls.values():
        for operand, name in enumerate(item.node.inputs):
            key = (id(item.strategies), operand)
            if key not in by_operand:
                by_operand[key] = unique(operand_layouts(strategy, operand) for strategy in item.strategies)
            demanded[name].update(dict.fromkeys(by_operand[key]))
    return {name: tuple(layouts) for name, layouts in demanded.items()}


def unique(items: Iterable[Layouts]) -> Sequence[Layouts]:
    """The distinct layouts in order of appearance."""
    return tuple(dict.fromkeys(items))
