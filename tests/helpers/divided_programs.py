"""A small model in four segments, as the code generator would write it, on any place axis and with any schedule.

An embedding that is also the head, a skip from the first segment to the last two, frozen parameters, a weight that is used
twice, one that is turned before its use, a convolution, dropout, a stretch that is computed again, and an output.
"""

import torch
import torch.nn.functional as F
from torch import nn

from autopar.ir.batch_sizes import MicrobatchPlan
from autopar.ir.grid import GridShape
from autopar.ir.layout import Copied, Shard
from autopar.ir.pipeline.placement_plan import EdgePlan, PlacementPlan, SegmentPlan
from autopar.ir.pipeline.positions import PositionLimits, PositionLinks
from autopar.ir.pipeline.schedule import format_schedule, parse_schedule
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge
from autopar.runtime import Grid, all_sum
from autopar.runtime.functional.dropout import dropout
from autopar.runtime.grid.counter_rng import drawing
from autopar.runtime.local.recompute import recompute
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.namespace import CurrentCall, Namespace
from autopar.runtime.program.pipeline import Pipeline, Segment
from autopar.runtime.program.plan_reader import Description, EdgeSpec, OutputSpec, TensorSpec
from autopar.runtime.program.program import Program
from autopar.runtime.session.parallel_module import Parallel

ROWS, LENGTH, WIDTH, WORDS = 6, 3, 6, 11
READS = (("ids",), ("h",), ("g", "x"), ("k", "x", "labels"))
WRITES = (("x", "h"), ("g",), ("k",), ("loss", "logits"))
_READERS = {"embed.weight": (0, 3), "position": (0,), "blocks.0": (0,), "blocks.1": (1,), "mix": (1,), "conv": (2,)}
_READERS |= {"norm": (3,), "scale": (3,)}


class Ladder(nn.Module):
    """The model's parameters; `sequential` computes it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.mix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.full((WIDTH,), 1.5), requires_grad=False)


def segments(axes, dropped):
    """The functions, for inputs whose rows are split over these axes."""

    def over(p):
        return {0: (axes[0], p.batch), "batch": 0} if axes else {"batch": 0}

    def embed(p, ids):
        x = F.embedding(ids, p.embed.weight) + p.position
        return x, torch.tanh(F.linear(x, p.blocks[0].weight, p.blocks[0].bias))

    def middle(p, h):
        g = torch.tanh(F.linear(h, p.blocks[1].weight, p.blocks[1].bias))
        g = g + F.linear(torch.tanh(g), p.blocks[1].weight)
        return dropout(g @ p.mix.T + p.mix.sum(), dropped, over(p))

    def convolved(p, g, x):
        def again(y):
            y = dropout(torch.sin(F.linear(y, p.conv.weight[:, :, 0], p.conv.bias)), dropped, over(p))
            return y * (p.batch / p.batch)

        k = F.conv1d((g + x).transpose(1, 2), p.conv.weight, p.conv.bias, padding=1).transpose(1, 2)
        return k + recompute(again, k)

    def head(p, k, x, labels):
        z = F.layer_norm(k + x, (WIDTH,), p.norm.weight, p.norm.bias) * p.scale
        logits = F.linear(z, p.embed.weight)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / (ROWS * LENGTH)
        for axis in axes:
            loss = all_sum(loss, axis)
        return loss, logits

    return embed, middle, convolved, head


def sequential(model, inputs, dropped=0.0, seed=0, step=1):
    """Loss and logits of the whole model."""
    embed, middle, convolved, head = segments((), dropped)
    names = dict(model.named_parameters(remove_duplicate=False))
    p = Namespace(names, CurrentCall(len(inputs["ids"]), model.training))
    with drawing(seed, step, model.training):
        x, h = embed(p, inputs["ids"])
        return head(p, convolved(p, middle(p, h), x), x, inputs["labels"])


def problem(at, microbatches, weight=1.0, positions=None):
    """The segments as a scheduler sees them."""
    edges = ((0, 1), (0, 2), (0, 3), (1, 2), (2, 3))
    work = (1.0,) * 4, (2.0,) * 4, (weight,) * 4
    return PipelineProblem(
        positions or 1 + max(at),
        microbatches,
        at,
        *work,
        tuple(SegmentEdge(a, b) for a, b in edges),
        (0.0,) * 4,
        (0.0,) * 4,
    )


def named(schedule, at, microbatches, positions=None):
    """The text of a schedule."""
    return format_schedule(NAMED[schedule](problem(at, microbatches, positions=positions)))


def program(grid, at, schedule, dropped=0.0):
    """The model on this grid, its segments at these positions."""
    grid = Grid(grid)
    functions = segments(grid.axes, dropped)
    numbers = (0, 0, 1, 0)
    rows = [
        Segment(*each[:1], at=each[1], reads=each[2], writes=each[3], draws=each[4])
        for each in zip(functions, at, READS, WRITES, numbers, strict=True)
    ]
    split, copied = [Shard(0) for _ in grid.axes], [Copied() for _ in grid.axes]
    edges = {name: split for name in "xhgk"}
    pipeline = Pipeline(rows, edges, schedule, returns=["loss", "logits"])
    patterns = ("embed.weight", "position", "blocks.*.*", "mix", "conv.*", "norm.*", "scale")
    inputs = {"ids": split, "labels": split}
    return Program(grid, pipeline, inputs, dict.fromkeys(patterns, copied), outputs={"logits": split})


def description(grid, microbatches):
    """What a plan would say of it."""
    model = Ladder()
    floats = torch.float32
    specs = []
    for name, tensor in model.named_parameters():
        readers = next(found for prefix, found in _READERS.items() if name.startswith(prefix))
        kind = "parameter" if tensor.requires_grad else "frozen"
        aliases = ("head.weight",) if name == "embed.weight" else ()
        specs.append(TensorSpec(name, tuple(tensor.shape), floats, kind, aliases, readers))
    given = tuple(TensorSpec(name, (ROWS, LENGTH), torch.int64, "input") for name in ("ids", "labels"))
    words = EdgeSpec("logits", (ROWS, LENGTH, WORDS), floats, (0,)), EdgeSpec("loss", (), floats)
    edges = (*(EdgeSpec(name, (ROWS, LENGTH, WIDTH), floats, (0,)) for name in "xhgk"), *words)
    output = OutputSpec("logits", (ROWS, LENGTH, WORDS), floats, (0,))
    return Description(
        "ladder",
        grid,
        given,
        tuple(specs),
        outputs=(output,),
        loss="loss",
        rows=ROWS,
        batched=("ids", "labels"),
        edges=edges,
        division=MicrobatchPlan(microbatches, ROWS, outputs=("shard 0",)) if microbatches > 1 else None,
        placement=costs(GridShape.parse(grid).positions, microbatches),
    )


def costs(positions, microbatches, memory=None):
    """What a plan would say of the segments: as `problem` has them, on positions that are alike."""
    segments = tuple(
        SegmentPlan(name, 0, (), 1.0, 2.0, 1.0, 1.0, 0.0, 0) for name in ("embed", "middle", "convolved", "head")
    )
    readers = {"x": (0, (2, 3)), "h": (0, (1,)), "g": (1, (2,)), "k": (2, (3,))}
    edges = tuple(
        EdgePlan(name, (), "float32", (), (), True, source, targets, 8) for name, (source, targets) in readers.items()
    )
    each, none = (PositionLimits(1.0, memory),) * positions, (0.0,) * positions
    links = PositionLinks.uniform(positions, 0.1, 0.0)
    return PlacementPlan(
        "stage", positions, microbatches, segments, edges, (), (), 1.0, 1.0, 0.0, 1.0, none, none, none, each, links, ()
    )


def parallel(grid, at, schedule, model, dropped=0.0, dtype=torch.float64):
    """This rank's session, with the model's values."""
    made = program(grid, at, schedule, dropped)
    count = 1 + max(action.microbatch for actions in parse_schedule(schedule) for action in actions)
    return Parallel(made, description(grid, count), module_values(model), dtype=dtype)


def batch(rows=ROWS, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randint(WORDS, (rows, LENGTH), generator=draw) for name in ("ids", "labels")}


def ladder(seed=0):
    """A model in float64, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ladder().double()
