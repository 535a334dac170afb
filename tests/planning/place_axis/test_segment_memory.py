"""Segments of small models run alone, and the bytes that they hold beside the walk through them."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from small_models import Gpt
from torch import nn

import autopar
from autopar.codegen.division import GraphDivision
from autopar.codegen.lower import lower
from autopar.codegen.segment_table import crossing_names
from autopar.partitioner.formulation.priced_problem import decide
from autopar.planning.place_axis.segment_memory import segment_memory
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.pipeline.deferred_weights import DeferredWeights
from autopar.runtime.pipeline.segment_ends import Entrance, Exit, roots_of
from autopar.runtime.profiling.memory_use import memory_use
from autopar.runtime.program.namespace import CurrentCall, Namespace


class Volumes(nn.Module):
    """Two levels of a 3-D U-Net with group norm."""

    def __init__(self, channels=16):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, channels, 3, padding=1), nn.GroupNorm(2, channels), nn.SiLU())
        self.bottom = nn.Sequential(nn.Conv3d(channels, 32, 3, padding=1), nn.GroupNorm(2, 32), nn.SiLU())
        self.rise = nn.ConvTranspose3d(32, channels, 2, stride=2)
        self.up = nn.Sequential(nn.Conv3d(2 * channels, channels, 3, padding=1), nn.GroupNorm(2, channels), nn.SiLU())
        self.head = nn.Conv3d(channels, 1, 1)

    def forward(self, x, y):
        fine = self.down(x)
        fine = torch.cat([self.rise(self.bottom(F.avg_pool3d(fine, 2))), fine], 1)
        return F.mse_loss(self.head(self.up(fine)), y)


BOUNDS = {"F": (0.98, 1.02), "B": (0.95, 1.35), "W": (0.92, 1.5)}
"""Of predicted over measured bytes. Backward of a convolution is predicted as for large volumes: small ones take less."""
DEFERRED = ("aten.linear.default", "autopar.affine", "aten.conv3d.default")
CASES = {
    "gpt": (
        lambda: Gpt(64, 4, 512, 32, 4),
        lambda: {"ids": torch.randint(512, (16, 32))},
        ["blocks.0.*: stage=0", "blocks.1*: stage=1", "blocks.2*: stage=0", "ln: stage=1"],
    ),
    "volumes": (
        Volumes,
        lambda: {"x": torch.randn(4, 1, 16, 16, 16), "y": torch.randn(4, 1, 16, 16, 16)},
        ["down*: stage=0", "bottom*: stage=1", "rise: stage=0", "up*: stage=1"],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """The lowered segments of a model with what they are made of, their functions, and its parameters."""
    build, inputs, pins = CASES[request.param]
    model, given = build(), inputs()
    one = autopar.compile(model, given, grid="stage:2", pin=pins, microbatches=2, segments=2, schedule="gpipe")
    pipeline = simulate(2, lambda: runpy_of(one.source))[0]
    decision = decide(one.built, one.solution.choice)
    division = GraphDivision(one.plan.placement.segment_of, tuple(s.position for s in one.plan.placement.segments))
    program = lower(one.built, decision, division)
    rows = {name: x[: len(x) // 2] for name, x in given.items()}
    return one, decision, program, pipeline.segments, dict(module_values(model)), rows


def runpy_of(source):
    """The pipeline of a program, on this rank."""
    names = {"__name__": "program"}
    exec(source, names)
    return names["PROGRAM"].forward


def held(memory, edges):
    """Bytes at every time, with what is read and written: a value that is read is there from the beginning."""
    n, found = memory.steps, []
    for time, inside in enumerate(memory.inside.tolist()):
        there = {}
        for name, one in memory.writes.items():
            if one.made <= time < max(n, one.kept):
                there[one.region] = one.nbytes
            if n <= time < one.gradient and name in edges:
                there["gradient", name] = edges[name]
        for name, one in memory.reads.items():
            if time < max(n, one.kept):
                there["value", name] = one.nbytes
            if time >= one.gradient and name in edges:
                there["made", name] = one.nbytes
        grown = sum(nbytes for _, nbytes, birth in memory.births if birth < time)
        found.append(inside + grown + sum(there.values()))
    return found


def run(segment, given, parameters, edges, ends, deferring):
    """Peaks of F, B and W of a segment that reads `given`, which it alone holds; and what it hands on.

    Counted is what comes to exist, and of what is there before what is read and the gradients of the `ends`.
    """
    leaves = {name: x.detach().requires_grad_() for name, x in parameters.items()}
    call = Namespace(leaves, CurrentCall(8, share=0.5))
    deferred = DeferredWeights([leaf for leaf in leaves.values() if leaf.requires_grad])
    entrances = {name: Entrance(x) for name, x in given.items() if name in edges}
    read = sum(x.nbytes for name, x in given.items() if name in edges)
    arguments = [entrances[name].tensor(given.pop(name)) if name in entrances else given[name] for name in list(given)]
    with memory_use() as first, deferred.watching() if deferring else nullcontext():
        written = segment.function(call, *arguments)
    written = dict(zip(segment.writes, (written,) if isinstance(written, torch.Tensor) else written, strict=True))
    handed = {name: x.detach().clone() for name, x in written.items()}
    exits = [Exit.of(written[name]) for name in ends]
    for name, one in zip(ends, exits, strict=True):
        one.place.append(torch.ones_like(handed[name]))
    arguments.clear()
    written.clear()
    with memory_use() as second:
        (deferred.backward if deferring else torch.autograd.backward)(*roots_of(exits))
    with memory_use() as third:
        deferred.finish()
    apart = sum(x.nbytes for x in handed.values())
    standing = first.before - read
    return (first.peak - standing, second.peak - standing - apart, third.peak - standing - apart), handed


@pytest.mark.zoo
@pytest.mark.parametrize("deferring", [False, True])
def test_a_segment_holds_what_is_predicted(case, deferring):
    one, decision, program, segments, parameters, given = case
    edges = {edge.name: edge.bytes for edge in one.plan.placement.edges if edge.differentiable and edge.readers}
    names = crossing_names(program, {item.name for item in one.graph.inputs})
    weights = [node.name for node in one.graph.nodes if node.target in DEFERRED]
    known, loss = given | {"loss_count": torch.tensor(512.0)}, segments[-1].writes[0]
    for lowered, segment in zip(program.segments, segments, strict=True):
        memory = segment_memory(one.built, decision, lowered, names.__getitem__, weights if deferring else ())
        predicted, n = held(memory, edges), memory.steps
        ends = [name for name in segment.writes if name in edges or name == loss]
        found, made = run(segment, {name: known[name] for name in segment.reads}, parameters, edges, ends, deferring)
        known |= made
        for kind, times, measured in zip("FBW", (slice(0, n), slice(n, 2 * n), slice(2 * n, None)), found, strict=True):
            if predicted[times]:  # W is where something is deferred
                least, most = BOUNDS[kind]
                assert least * measured <= max(predicted[times]) <= most * measured, (segment.function, kind)
