"""What a plan chose, in words: per axis the share of the compute time that goes into calls split over batch, features and so on.

The words are read off layouts: dim 0 is the batch; of convolutions (notation ``n c ...``) dim 1 is channels and the rest space; of
attention dims before the last two are heads; otherwise the last dim is features and the middle one of three the sequence.
Elementwise calls follow their neighbours and do not count, as long as there are others.
"""

from __future__ import annotations

from autopar.ir.grid import GridShape
from autopar.ir.layout import Shard, parse_layout
from autopar.ir.plan import AxisChoice, NodePlan, Plan
from autopar.ir.units import fraction_text

WHOLE = "nothing"


def shares(plan: Plan) -> dict[str, dict[str, float]]:
    """Per axis and word the share of compute time, largest first."""
    counted = [node for node in plan.nodes if not node.letters.startswith("d*")] or list(plan.nodes)
    total = sum(node.seconds for node in counted) or 1.0
    per_axis: dict[str, dict[str, float]] = {}
    for position, axis in enumerate(GridShape.parse(plan.grid).names):
        parts: dict[str, float] = {}
        for node in counted:
            word = meaning(node, node.choices[position])
            parts[word] = parts.get(word, 0.0) + node.seconds / total
        per_axis[axis] = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return per_axis


def sentence(plan: Plan) -> str:
    """``batch over data; features 64% + batch 30% over model``, and where it is divided ``graph over pipe in 2 segments``.

    With a queue also ``8 micro-batches drawn over data``.
    """
    sizes = dict(zip(*_axes(plan), strict=True))
    placement = plan.placement
    parts = [f"graph over {placement.axis} in {len(placement.segments)} segments"] if placement else []
    queue, division = GridShape.parse(plan.grid).queue, plan.batch.division
    parts += [f"{division.microbatches} micro-batches drawn over {queue.name}"] if queue and division else []
    parts += [f"{_words(share)} over {axis}" for axis, share in shares(plan).items() if sizes[axis] > 1]
    return "; ".join(parts) or "one rank, nothing to split"


def meaning(node: NodePlan, choice: AxisChoice) -> str:
    """The word for what one call does on one axis."""
    if choice.mode != "split":
        return WHOLE
    layouts = [parse_layout(text) for text in (choice.results[0], *choice.operands)]
    shard = next((layout for layout in layouts if isinstance(layout, Shard)), None)
    if shard is None:
        return f"letter {choice.letter}"
    if shard.dim == 0:
        return "batch" if shard.blocks == 1 else "sequence"
    if node.letters.startswith("n c"):
        return "channels" if shard.dim == 1 else "space"
    return _position(
        shard.dim, len(node.shape), attention=node.letters.startswith("b* t [e]"), summed=layouts[0] is not shard
    )


def _position(dim: int, ndim: int, *, attention: bool, summed: bool) -> str:
    if attention and dim < ndim - 1:
        return "sequence" if dim == ndim - 2 else "heads"
    if summed or dim == ndim - 1:
        return "features"
    return "sequence" if ndim == 3 else f"dim {dim}"


def _words(share: dict[str, float]) -> str:
    large = [(word, part) for word, part in share.items() if part >= 0.05] or list(share.items())[:1]
    return large[0][0] if large[0][1] >= 0.95 else " + ".join(f"{word} {part:.0%}" for word, part in large)


def _axes(plan: Plan) -> tuple[tuple[str, ...], tuple[int, ...]]:
    grid = GridShape.parse(plan.grid)
    return grid.names, grid.sizes


def cuts_sentence(plan: Plan) -> str:
    """Where axes are cut that are not cut in balanced parts, in words."""
    return "; ".join(f"{name} at {', '.join(map(fraction_text, cuts[1:-1]))}" for name, cuts in plan.cuts)
