"""The stages of a capture in their order, and what is done where a stage cannot work without memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram

from autopar.capture.build import LOG, Built, Examples, Model, arguments, build, build_on_cpu, input_names, real_buffers
from autopar.capture.export import export
from autopar.capture.names import rename
from autopar.capture.rewrite import dead_code
from autopar.capture.simplify import simplify
from autopar.capture.translate import constant_values, translate
from autopar.errors import CaptureError, refusal
from autopar.graph import Graph, check


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph, and the values of its parameters of kind "constant" by name."""

    graph: Graph
    constants: dict[str, torch.Tensor]


def capture(
    model: Model, example_inputs: Examples | Callable[[], Examples], *, name: str, loss: str | None = None
) -> Captured:
    """The graph of one training step of `model`, up to its loss.

    `model` is an nn.Module (also a traced fx.GraphModule) or, better, a function that returns one: it is then called on
    the meta device. `example_inputs` is a tuple for positional or a dict for keyword arguments, or a function that
    returns one. `loss` names the output to differentiate where it is neither the only scalar nor called ``loss``:
    a key, a field or an index, nested ones joined by dots.

    Raises CaptureError where the model cannot be made, called, or turned into one straight graph.
    """
    examples = example_inputs() if callable(example_inputs) else example_inputs
    built = build(model, name)
    try:
        return _capture(built, examples, name, loss)
    except CaptureError as error:
        if built.mode is None or built.rebuild is None or not _may_succeed_on_cpu(error):
            raise
        LOG.info("%s cannot be traced without memory; it is made on the CPU and traced again", name)
    return _capture(build_on_cpu(built.rebuild, name), examples, name, loss)


def _may_succeed_on_cpu(error: CaptureError) -> bool:
    """Whether missing memory was in the way: a tensor stayed on meta, or the numbers of a constant are not known."""
    return re.search(rf"\bmeta\b|{_UNKNOWN}", str(error)) is not None


_UNKNOWN = "its value is not known"


def _capture(built: Built, examples: Examples, name: str, loss: str | None) -> Captured:
    args, kwargs = arguments(examples, built)
    program = export(built.module, args, kwargs, name)
    positional = input_names(built.module, args, kwargs)[: len(args)]
    graph = dead_code(translate(program, built.module, positional, name, loss))
    constants = _constants(graph, program, built)
    graph = rename(simplify(graph, constants))
    check(graph)
    used = {item.name for item in graph.parameters if item.kind == "constant"}
    return Captured(graph, {key: tensor for key, tensor in constants.items() if key in used})


def _constants(graph: Graph, program: ExportedProgram, built: Built) -> dict[str, torch.Tensor]:
    """Values of the graph's constants. Raises CaptureError where one has no memory and cannot be made again."""
    wanted = [item.name for item in graph.parameters if item.kind == "constant"]
    found = {**constant_values(program), **_own_buffers(built.module)}
    known = {key: found[key] for key in wanted if key in found and _is_real(found[key])}
    if len(known) < len(wanted) and built.rebuild is not None:
        again = real_buffers(built.rebuild)
        known |= {key: again[key].detach() for key in wanted if key not in known and key in again}
    missing = [f"{key}: {_UNKNOWN}" for key in wanted if key not in known]
    if missing:
        rule = "a tensor that is not in the state_dict is part of the program, so its numbers must be known"
        fix = "register it with register_buffer, or give the model as a function that returns it"
        raise CaptureError(refusal(graph.name, "constants on the meta device", rule, missing, fix))
    return known


def _own_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.named_buffers(remove_duplicate=False)}


def _is_real(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)
