"""Fixed plans to compare with: what people write by hand, as a narrowing of what each call may do.

    data        the batch over every axis; parameters are whole everywhere
    model       tensor parallelism over every axis: linear layers and convolutions by output features, the next by input features
    domain      space: one spatial dim of the images or volumes per axis
    megatron    heads and features over the last axis, the batch over the others
    zero        data, with parameters, gradients and optimizer state stored in parts and gathered for use
    integrated  Pr x Pc of Gholami et al. (arXiv 1712.04432, equation 9): the first axis splits every linear layer's output
                features, and space in convolutions; the others split the batch

A layout is put on inputs or begun at a layer and followed through the graph: a call takes its operands as they travel, and what it
then yields travels on. Calls that nothing reaches, or that cannot follow, take the cheapest choice that is compatible; on the axes
of tensor parallelism they compute the whole. The same prices and the same solver complete each plan, so that a difference between
two plans is one of splits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autopar.errors import ConfigError, nearest, refusal
from autopar.ir.graph import Graph
from autopar.ir.grid import GridShape
from autopar.ir.layout import Layout, Shard
from autopar.ops.annotated import AnnotatedGraph
from autopar.ops.record.rule import Choice, whole_choice
from autopar.partitioner.formulation.constraints import Constraints, constrained
from autopar.partitioner.formulation.merged_axes import many
from autopar.partitioner.formulation.mixed_choices import MOST
from autopar.partitioner.formulation.strategies import CallStrategies, Strategy

FREE = "auto"
_WEIGHTED = ("matmul", "conv")
Allowed = Mapping[str, frozenset[Choice]]  # per call what it is to do on one axis


class NotApplicable(ConfigError):
    """A baseline that says nothing about this model on this grid; the message says why."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a baseline looks at. `rows` are the inputs whose dim 0 is the batch, `weights` what is made of parameters alone."""

    graph: Graph
    grid: GridShape
    calls: Mapping[str, CallStrategies]
    rows: tuple[str, ...]
    weights: frozenset[str]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of more than one rank."""
        return tuple(axis for axis, size in enumerate(self.grid.sizes) if size > 1)

    def size(self, axes: Iterable[int]) -> int:
        """The number of ranks of these axes."""
        count = 1
        for axis in axes:
            count *= self.grid.sizes[axis]
        return count

    def choices(self, name: str, axis: int) -> tuple[Choice, ...]:
        """What a call may do on an axis."""
        return tuple(dict.fromkeys(strategy[axis] for strategy in self.calls[name].strategies))


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fixed plan: its name, what it does in a few words, and what it allows of every call, by axis."""

    name: str
    title: str
    allows: Callable[[Scene], Mapping[int, Allowed]]
    stored: bool = False


@dataclass(frozen=True, slots=True)
class _Trail:
    """What was found while a layout was followed over one axis: what calls do, and in which layouts values travel."""

    allowed: dict[str, frozenset[Choice]] = field(default_factory=dict)
    where: dict[str, frozenset[Layout]] = field(default_factory=dict)

    def take(self, item: CallStrategies, chosen: Sequence[Choice]) -> None:
        self.allowed[item.node.name] = frozenset(chosen)
        for i, name in enumerate(item.node.outputs):
            shards = frozenset(choice.results[i] for choice in chosen if isinstance(choice.results[i], Shard))
            if name and shards:
                self.where[name] = shards

    def fitting(self, item: CallStrategies, choices: Sequence[Choice]) -> list[Choice]:
        """The splits that take every operand as it travels; none where none travels."""
        travels = {i: self.where[name] for i, name in enumerate(item.node.inputs) if name in self.where}
        if not travels:
            return []
        splits = [choice for choice in choices if choice.mode == "split"]
        return [split for split in splits if all(split.operands[i] in at for i, at in travels.items())]


def narrowed(name: str, annotated: AnnotatedGraph, grid: GridShape, constraints: Constraints) -> Constraints:
    """The constraints, with what a baseline narrows the choice to.

    Raises ConfigError for an unknown name, and NotApplicable where the baseline says nothing about this model or grid.
    """
    check(name)
    graph, larger, baseline = annotated.graph, annotated.larger, BASELINES[name]
    some: dict[str, tuple[Strategy, ...]] | None = {} if many(grid) else None
    calls = constrained(annotated, grid, replace(constraints, bases=some))
    scene = Scene(graph, grid, calls, _rows(graph, larger.graph if larger else None), _weights(graph))
    if not scene.axes:
        raise _inapplicable(scene, baseline, "a single rank has nothing to split")
    allowed = baseline.allows(scene)
    if some is not None:
        some = {name: _combined(scene, name, allowed) for name in calls}
        calls = constrained(annotated, grid, replace(constraints, bases=some))
    only = {item.node.name: kept for item in calls.values() if (kept := _kept(item, allowed))}
    trained = frozenset(item.value for item in graph.parameters if item.kind == "parameter")
    stored = trained if baseline.stored else frozenset()
    return replace(constraints, only=only, stored=stored, bases=some)


def check(name: str) -> None:
    """Raise ConfigError for a name that is no baseline's, nor ``auto``."""
    known = (FREE, *BASELINES)
    if name not in known:
        fault = f"{name!r} is unknown{nearest(name, known)}"
        raise ConfigError(refusal("plan", fault, "a plan is found (auto), or a fixed one of those", known))


def _combined(scene: Scene, name: str, allowed: Mapping[int, Allowed]) -> tuple[Strategy, ...]:
    """What a call is to do on all axes together, the whole where nothing is said."""
    whole = frozenset([whole_choice(scene.calls[name].call, "replicate")])
    sets = [allowed.get(axis, {}).get(name, whole) for axis in range(len(scene.grid.sizes))]
    every = itertools.product(*(sorted(choices, key=str) for choices in sets))
    return tuple(itertools.islice(every, MOST))


def _kept(item: CallStrategies, allowed: Mapping[int, Allowed]) -> tuple[Strategy, ...]:
    """The strategies that do what is allowed on most axes; none where they do on none."""
    name = item.node.name
    scores = [
        sum(strategy[axis] in calls[name] for axis, calls in allowed.items() if name in calls)
        for strategy in item.strategies
    ]
    best = max(scores)
    return tuple(strategy for strategy, score in zip(item.strategies, scores, strict=True) if best and score == best)


def _rows(graph: Graph, larger: Graph | None) -> tuple[str, ...]:
    """The inputs with rows of the batch; where the batch is fixed, those whose dim 0 is as long as the first one's."""
    shaped = [item.value for item in graph.inputs if graph.values[item.value].shape]
    if larger is not None:
        return tuple(name for name in shaped if graph.values[name].shape[0] != larger.values[name].shape[0])
    return tuple(name for name in shaped if graph.values[name].shape[0] == graph.values[shaped[0]].shape[0])


def _weights(graph: Graph) -> frozenset[str]:
    """Parameters, and what is made of them alone."""
    weights = {item.value for item in graph.parameters if item.kind in ("parameter", "frozen")}
    for node in graph.nodes:
        if node.inputs and weights.issuperset(node.inputs):
            weights |= set(filter(None, node.outputs))
    return frozenset(weights)


def _inapplicable(scene: Scene, baseline: Baseline | str, why: str) -> NotApplicable:
    name = baseline if isinstance(baseline, str) else baseline.name
    where = f"plan {name!r} for {scene.graph.name} on grid {scene.grid}"
    rule = f"{name}: {BASELINES[name].title}"
    return NotApplicable(refusal(where, f"does not apply: {why}", rule, fix="choose another plan, or grid"))


def _follow(scene: Scene, axis: int, seeds: Mapping[str, Layout]) -> Allowed:
    """What the calls do that a layout of some inputs reaches."""
    trail = _Trail(where={name: frozenset([layout]) for name, layout in seeds.items()})
    for node in scene.graph.nodes:
        item = scene.calls[node.name]
        chosen = trail.fitting(item, scene.choices(node.name, axis))
        if chosen:
            trail.take(item, chosen)
    return trail.allowed


def _batch(scene: Scene, axes: Sequence[int], name: str) -> dict[int, Allowed]:
    ranks = scene.size(axes)
    rows = min((scene.graph.values[value].shape[0] for value in scene.rows), default=0)
    if axes and rows < ranks:
        raise _inapplicable(scene, name, f"a batch of {rows} cannot be cut over {ranks} ranks")
    return {axis: _follow(scene, axis, dict.fromkeys(scene.rows, Shard(0))) for axis in axes}


def _space(scene: Scene, axis: int, dim: int, name: str) -> Allowed:
    """Images and volumes along the spatial dim of this number."""
    images = {item.value: scene.graph.values[item.value] for item in scene.graph.inputs}
    seeds = {
        image: Shard(2 + dim)
        for image, value in images.items()
        if value.dtype.startswith("float") and len(value.shape) > 2 + dim
    }
    followed = _follow(scene, axis, seeds)
    letters = {call: {choice.letter for choice in chosen} for call, chosen in followed.items()}
    if not any(letters[call] & scene.calls[call].rule.windows.keys() for call in letters):
        raise _inapplicable(
            scene, name, f"there is no spatial dim {dim} whose rows a convolution reads over {axis_name(scene, axis)}"
        )
    return followed


def axis_name(scene: Scene, axis: int) -> str:
    """An axis with its size."""
    return f"{scene.grid.names[axis]} ({scene.grid.sizes[axis]} ranks)"


def _columns(scene: Scene, item: CallStrategies, choices: Sequence[Choice]) -> list[Choice]:
    """The splits of a layer's output features: its weights in parts, its operands whole, its result in parts."""
    inputs = item.node.inputs
    weights = [i for i, name in enumerate(inputs) if name in scene.weights and len(scene.graph.values[name].shape) > 1]
    others = [i for i, name in enumerate(inputs) if name not in scene.weights]
    return [
        choice
        for choice in choices
        if choice.mode == "split"
        and any(isinstance(choice.operands[i], Shard) for i in weights)
        and not any(isinstance(choice.operands[i], Shard) for i in others)
        and isinstance(choice.results[0], Shard)
    ]


def _tensors(scene: Scene, axis: int, works: Sequence[str], name: str) -> Allowed:
    """Alternating splits: a layer by output features, whatever follows as it comes, the next layer by input features."""
    trail, pairs = _Trail(), 0
    for node in scene.graph.nodes:
        item = scene.calls[node.name]
        choices = scene.choices(node.name, axis)
        chosen = trail.fitting(item, choices)
        pairs += bool(chosen) and item.op.work in (*works, "attention")
        if not chosen and item.op.work in works:
            chosen = _columns(scene, item, choices)
        if not chosen and item.op.work in (*_WEIGHTED, "attention", "pointwise", "reduce"):
            chosen = [choice for choice in choices if choice.mode in ("replicate", "copied")]
        if chosen:
            trail.take(item, chosen)
    if not pairs:
        layers = "linear layers" if works == ("matmul",) else "layers"
        raise _inapplicable(
            scene, name, f"no two {layers} follow each other whose features {axis_name(scene, axis)} could split"
        )
    return trail.allowed


def _data(scene: Scene) -> dict[int, Allowed]:
    return _batch(scene, scene.axes, "data")


def _zero(scene: Scene) -> dict[int, Allowed]:
    return _batch(scene, scene.axes, "zero")


def _model(scene: Scene) -> dict[int, Allowed]:
    return {axis: _tensors(scene, axis, _WEIGHTED, "model") for axis in scene.axes}


def _domain(scene: Scene) -> dict[int, Allowed]:
    return {axis: _space(scene, axis, dim, "domain") for dim, axis in enumerate(scene.axes)}


def _megatron(scene: Scene) -> dict[int, Allowed]:
    *outer, last = scene.axes
    return {**_batch(scene, outer, "megatron"), last: _tensors(scene, last, ("matmul",), "megatron")}


def _integrated(scene: Scene) -> dict[int, Allowed]:
    first, *rest = scene.axes
    if not rest:
        raise _inapplicable(scene, "integrated", "the grid has one axis, and it takes two: Pr x Pc")
    rows: dict[str, frozenset[Choice]] = {}
    if any(item.op.work == "conv" for item in scene.calls.values()):
        rows |= _space(scene, first, 0, "integrated")
    for name, item in scene.calls.items():
        chosen = _columns(scene, item, scene.choices(name, first)) if item.op.work == "matmul" else []
        if chosen:
            rows[name] = frozenset(chosen)
    if not rows:
        raise _inapplicable(scene, "integrated", "the model has neither linear layers nor convolutions")
    return {first: rows, **_batch(scene, rest, "integrated")}


BASELINES = {
    baseline.name: baseline
    for baseline in (
        Baseline("data", "the batch over every axis", _data),
        Baseline("model", "features over every axis, output and input in turn", _model),
        Baseline("domain", "a spatial dim over every axis", _domain),
        Baseline("megatron", "heads and features over the last axis, the batch over the others", _megatron),
        Baseline("zero", "the batch over every axis, parameters stored in parts", _zero, stored=True),
        Baseline(
            "integrated", "Pr x Pc: features or space over the first axis, the batch over the others", _integrated
        ),
    )
}
