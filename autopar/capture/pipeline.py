"""The stages of a capture in their order, and what is done where a stage cannot work without memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram

from autopar.capture.diagnostics.logs import LOG
from autopar.capture.exporting.export import functional, traced
from autopar.capture.exporting.fake_module import (
    Examples,
    FakeModule,
    Model,
    arguments,
    build,
    build_on_cpu,
    input_names,
    real_buffers,
)
from autopar.capture.passes.drop_path import TARGET as PATH
from autopar.capture.passes.naming import rename
from autopar.capture.passes.rewriting import dead_code
from autopar.capture.passes.simplify import simplify
from autopar.capture.state.buffer_updates import refuse_chains, settle
from autopar.capture.state.host_random import differing, drawn_with
from autopar.capture.state.untouched_module import settings_kept
from autopar.capture.tracing.asserts import checking, unasserted
from autopar.capture.tracing.known_numbers import UNKNOWN
from autopar.capture.tracing.row_pointers import pointer_failure, pointing
from autopar.capture.translate import constant_values, translate
from autopar.capture.validity.batch_rows import ExampleInputs, batched, examples_as_given, rows_of
from autopar.capture.validity.evaluation_mode import evaluation
from autopar.capture.validity.requested_mode import Mode, modes
from autopar.capture.validity.row_counts import RowCounts, find_row_counts
from autopar.capture.validity.row_guards import Unproved
from autopar.errors import CaptureError, refusal
from autopar.internal_errors import as_internal_error
from autopar.ir.batch_sizes import ANY, Sizes
from autopar.ir.graph import Graph, check

Finished = Callable[[ExportedProgram], tuple[Graph, dict[str, torch.Tensor]]]


@dataclass(frozen=True, slots=True)
class CapturedBatch:
    """The batch of a captured model: its number of `rows`, the `inputs` that have them, and all that were `given`.

    `larger` is the graph of the same model with another number of rows, and `sizes` are the numbers for which both tell
    the program; it is None where `fixed` says why there is none.
    """

    rows: int
    inputs: tuple[str, ...]
    given: ExampleInputs
    sizes: Sizes = ANY
    larger: Graph | None = None
    fixed: str = ""


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph, and the values of its parameters of kind "constant" by name.

    `evaluation` says why the program of this graph cannot evaluate, and is empty where it can; `training` why it cannot be
    put into training. `evaluates` is whether the model was in evaluation, in which the program starts.
    """

    graph: Graph
    constants: dict[str, torch.Tensor]
    batch: CapturedBatch
    evaluation: str = ""
    training: str = ""
    evaluates: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    """What is captured of a model: on these examples, under this name, up to this loss and these outputs."""

    examples: Examples
    name: str
    loss: str | None
    outputs: Sequence[str]


def capture(
    model: Model,
    example_inputs: Examples | Callable[[], Examples],
    *,
    name: str,
    loss: str | None = None,
    outputs: Sequence[str] = (),
) -> Captured:
    """The graph of one training step of `model`, up to its loss.

    `model` is an nn.Module (also a traced fx.GraphModule) or, better, a function that returns one: it is then called on
    the meta device. `example_inputs` is a tuple for positional or a dict for keyword arguments, or a function that
    returns one. `loss` names the output to differentiate where it is neither the only scalar nor called ``loss``:
    a key, a field or an index, nested ones joined by dots. `outputs` names others to return beside it, in the same way.

    Raises CaptureError where the model cannot be made, called, or turned into one straight graph.
    """
    with settings_kept():
        examples = example_inputs() if callable(example_inputs) else example_inputs
        built = build(model, name)
        request = _Request(examples, name, loss, outputs)
        try:
            return _with_pointers(built, request)
        except CaptureError as error:
            if built.mode is None or built.rebuild is None or not _may_succeed_on_cpu(error):
                raise
            LOG.info("%s cannot be traced without memory; it is made on the CPU and traced again", name)
        return _with_pointers(build_on_cpu(built.rebuild, name), request)


def _with_pointers(built: FakeModule, request: _Request) -> Captured:
    """What is captured; once more with pointers for whole numbers of tensors where a file asks for them with `int`, and
    without the asserts of a function that look at numbers.
    """
    try:
        with as_internal_error(f"capturing {request.name}"):
            return _capture(built, request)
    except CaptureError as error:
        pointers, checks = pointer_failure(error), checking(error)
        if pointers is None and checks is None:
            raise
    with contextlib.ExitStack() as around:
        if pointers is not None:
            around.enter_context(pointing(pointers.scope))
        if checks is not None:
            around.enter_context(unasserted(checks))
        return _with_pointers(built, request)


def _may_succeed_on_cpu(error: CaptureError) -> bool:
    """Whether missing memory was in the way: a tensor stayed on meta, or the numbers of a constant are not known.

    Where one of meta is moved to another device with its dtype, torch's tracing goes round in circles.
    """
    circles = isinstance(error.__cause__, RecursionError)
    return circles or re.search(rf"\bmeta\b|{UNKNOWN}", str(error)) is not None


def _capture(built: FakeModule, request: _Request) -> Captured:
    first, *others = modes(built.module, *arguments(request.examples, built), built.mode)
    try:
        captured = _in_mode(first, built, request)
        if not (others and captured.evaluation):
            return captured
        why = captured.evaluation
    except CaptureError as error:
        if not others:
            raise
        why = str(error).splitlines()[0]
    return _in_mode(replace(others[0], stuck=why), built, request)


def _in_mode(mode: Mode, built: FakeModule, request: _Request) -> Captured:
    examples = request.examples
    with mode.entered(built.module):
        args, kwargs = arguments(examples, built)
        names = input_names(built.module, args, kwargs)
        batch = CapturedBatch(
            rows_of(examples), batched(examples, names), examples_as_given(examples, names, built.module)
        )
        finished = partial(_graph, built, args, kwargs, request)
        counts: list[RowCounts | str] = []

        def captured() -> tuple[Graph, dict[str, torch.Tensor]]:
            program = traced(built.module, args, kwargs, request.name, state=True)
            if not counts:  # before the program is changed
                counts.append(_any_rows(built, batch.given, program, request.name))
            return finished(program)

        graph, constants = drawn_with(captured, built.module)
        batch = _of_any_rows(batch, counts[0], finished, constants)
        paths = sum(node.target == PATH for node in graph.nodes)
        why = evaluation(built.module, *arguments(examples, built), built.mode, paths)
    return Captured(graph, constants, batch, why, mode.stuck, mode.evaluates)


def _any_rows(built: FakeModule, example: ExampleInputs, program: ExportedProgram, name: str) -> RowCounts | str:
    """The trace for any number of rows, or why there is none."""
    try:
        return find_row_counts(built, example, program, name)
    except Unproved as why:
        return str(why)


def _of_any_rows(
    batch: CapturedBatch, counts: RowCounts | str, finished: Finished, constants: Mapping[str, torch.Tensor]
) -> CapturedBatch:
    if isinstance(counts, str):
        return replace(batch, fixed=counts)
    larger, fixed = _larger(finished, counts, constants)
    return replace(batch, inputs=counts.trace.inputs, sizes=counts.sizes, larger=larger, fixed=fixed)


def _larger(finished: Finished, counts: RowCounts, constants: Mapping[str, torch.Tensor]) -> tuple[Graph | None, str]:
    """The graph with another number of rows, or why there is none: the batch is part of the model."""
    try:
        graph, others = finished(counts.trace.at(counts.other))
    except CaptureError as error:
        return None, f"with another number of rows, {' '.join(str(error).splitlines()[:2])}"
    changed = differing(constants, others)
    return (None, f"the constant {min(changed)} depends on the number of rows") if changed else (graph, "")


def _graph(
    built: FakeModule,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    request: _Request,
    program: ExportedProgram,
) -> tuple[Graph, dict[str, torch.Tensor]]:
    name, loss, outputs = request.name, request.loss, request.outputs
    program = functional(program, built.module, args, kwargs, name)
    positional = input_names(built.module, args, kwargs)[: len(args)]
    graph = refuse_chains(dead_code(translate(program, built.module, positional, name, loss, outputs)))
    constants = _constants(graph, program, built)
    graph = rename(settle(simplify(graph, constants)))
    check(graph)
    used = {item.name for item in graph.parameters if item.kind == "constant"}
    return graph, {key: tensor for key, tensor in constants.items() if key in used}


def _constants(graph: Graph, program: ExportedProgram, built: FakeModule) -> dict[str, torch.Tensor]:
    """Values of the graph's constants. Raises CaptureError where one has no memory and cannot be made again."""
    names = [item.name for item in graph.parameters if item.kind == "constant"]
    constants = {**constant_values(program), **_own_buffers(built.module)}
    known = {key: constants[key] for key in names if key in constants and _is_real(constants[key])}
    if len(known) < len(names) and built.rebuild is not None:
        again = real_buffers(built.rebuild)
        known |= {key: again[key].detach() for key in names if key not in known and key in again}
    missing = [f"{key}: {UNKNOWN}" for key in names if key not in known]
    if missing:
        rule = "a tensor that is not in the state_dict is part of the program, so its numbers must be known"
        fix = "register it with register_buffer, or give the model as a function that returns it"
        raise CaptureError(refusal(graph.name, "constants on the meta device", rule, missing, fix))
    return known


def _own_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.named_buffers(remove_duplicate=False)}


def _is_real(tensor: torch.Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)
