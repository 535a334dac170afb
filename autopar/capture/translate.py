"""An exported FX program as our Graph: parameters, inputs, nodes, the loss and the buffer updates, not simplified yet.

Values keep FX's names here; `autopar.capture.passes.naming` gives them readable ones at the end. A value is differentiable when
it is floating and reached from a parameter that requires grad, with no detach between.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from autopar.capture.arguments import canonical
from autopar.capture.diagnostics import refusals
from autopar.capture.diagnostics.source_lines import node_frame, user_files
from autopar.capture.passes.rewriting import no_gradient
from autopar.errors import CaptureError, nearest, refusal
from autopar.ir.graph import Graph, Input, Node, Parameter, Ref, Value

_STATISTICS = re.compile(r"aten\._(native_)?batch_norm_\w+\.")  # a gradient flows through the first result alone
_CHECKS = frozenset({"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten._assert_async.msg"})


@dataclass(slots=True)
class _Translation:
    """What is known while the nodes are read in order."""

    files: frozenset[str]
    values: dict[str, Value] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)  # FX node name -> value name: tied parameters, folded getitems
    nodes: list[Node] = field(default_factory=list)

    def ref(self, node: fx.Node) -> Ref:
        return Ref(self.alias.get(node.name, node.name))


def translate(
    program: ExportedProgram,
    module: nn.Module,
    positional: tuple[str, ...],
    name: str,
    loss: str | None,
    outputs: Sequence[str] = (),
) -> Graph:
    """The graph of `program` up to its loss and these other outputs. Raises CaptureError.

    `positional` names the positional inputs.
    """
    state = _Translation(user_files(module))
    nodes = list(program.graph.nodes)
    parameters = _parameters(program, module, state)
    inputs = _inputs(program, positional, state)
    for node in nodes:
        if node.op == "call_function" and str(node.target) not in _CHECKS:
            _translate_node(node, state)
    path, chosen = _loss(program, state, name, loss)
    returned = _returned(program, state, name, outputs)
    updates = _updates(program, parameters, state)
    return Graph(name, inputs, parameters, tuple(state.nodes), state.values, chosen, updates, returned, path)


def constant_values(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """What torch.export holds of the tensors that are not in the state_dict."""
    constants = {key: tensor for key, tensor in program.constants.items() if isinstance(tensor, torch.Tensor)}
    return {key: tensor.detach() for key, tensor in constants.items()}


def _parameters(program: ExportedProgram, module: nn.Module, state: _Translation) -> tuple[Parameter, ...]:
    """Parameters, buffers and constants; one per tensor, the names tied to it as aliases."""
    tensors = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    stored = set(module.state_dict(keep_vars=True))
    updated = {spec.target for spec in program.graph_signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION}
    placeholders = {spec.target: spec for spec in program.graph_signature.input_specs if spec.target is not None}
    fake = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    first: dict[int, str] = {}
    for key, tensor in tensors.items():
        first.setdefault(id(tensor), key)
    groups: dict[str, list[str]] = {}
    for key in [*tensors, *(key for key in placeholders if key not in tensors)]:
        if key in placeholders:
            groups.setdefault(first[id(tensors[key])] if key in tensors else key, []).append(key)
    parameters = []
    for lead, names in groups.items():
        value = placeholders[names[0]].arg.name
        state.alias |= {placeholders[key].arg.name: value for key in names}
        kind = _kind(tensors.get(lead), bool(stored & set(names)) or bool(updated & set(names)))
        state.values[value] = _value(value, fake[value], kind == "parameter")
        parameters.append(Parameter(lead, value, kind, tuple(key for key in names if key != lead)))
    return tuple(parameters)


def _kind(tensor: torch.Tensor | None, kept: bool) -> str:
    if isinstance(tensor, nn.Parameter):
        return "parameter" if tensor.requires_grad else "frozen"
    return "buffer" if tensor is not None and kept else "constant"


def _inputs(program: ExportedProgram, positional: tuple[str, ...], state: _Translation) -> tuple[Input, ...]:
    """The tensors that the user passes; arguments of another kind are constants of this graph."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    names = (*positional, *program.call_spec.in_spec.child(1).context)
    fake = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = []
    for name, spec in zip(names, specs, strict=True):
        if not isinstance(spec.arg, ConstantArgument):
            state.values[spec.arg.name] = _value(spec.arg.name, fake[spec.arg.name], False)
            inputs.append(Input(name, spec.arg.name))
    return tuple(inputs)


def _translate_node(node: fx.Node, state: _Translation) -> None:
    if node.target is operator.getitem:
        return  # folded into the call that it picks from
    frame = node_frame(node, state.files)
    results = _results(node)
    refusals.check_node(node, results, frame)
    target, args, kwargs = canonical(node, state.ref)
    names = [node.name] if not isinstance(node.meta["val"], list | tuple) else [""] * len(results)
    for user in node.users:
        if user.target is operator.getitem:
            index = user.args[1]
            assert isinstance(index, int)
            names[index] = names[index] or user.name
            state.alias[user.name] = names[index]
    place, code = (frame.place, frame.code) if frame else ("", "")
    call = Node(node.name, target, args, kwargs, tuple(names), _module(node), place, code)
    flows = not no_gradient(target) and any(state.values[name].differentiable for name in call.inputs)
    first = _STATISTICS.match(target) is not None
    for i, (name, result) in enumerate(zip(names, results, strict=True)):
        if name:
            state.values[name] = _value(name, result, flows and not (first and i))
    state.nodes.append(call)


def _results(node: fx.Node) -> list[object]:
    value = node.meta.get("val")
    return list(value) if isinstance(value, list | tuple) else [value]


def _module(node: fx.Node) -> str:
    """Path of the innermost module on the stack; the marks of repeated calls (``fc@1``) are dropped."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([entry[0] for entry in stack.values()]), "")
    return re.sub(r"@\d+", "", str(path)).removeprefix("L['self'].").removeprefix("L['self']")


def _value(name: str, tensor: object, flows: bool) -> Value:
    assert isinstance(tensor, torch.Tensor)
    floating = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Value(name, tuple(int(n) for n in tensor.shape), dtype, floating and flows)


def _updates(
    program: ExportedProgram, parameters: Sequence[Parameter], state: _Translation
) -> tuple[tuple[str, str], ...]:
    """Which value replaces which buffer or parameter after forward. Inputs may not be written to."""
    refusals.check_inputs_kept(program, state.files)
    owners = {name: item.name for item in parameters for name in (item.name, *item.aliases)}
    updates = []
    for spec in program.graph_signature.output_specs:
        if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            updates.append((owners[str(spec.target)], state.alias.get(spec.arg.name, spec.arg.name)))
    return tuple(updates)


def _loss(program: ExportedProgram, state: _Translation, name: str, wish: str | None) -> tuple[str, str]:
    """The path and the value of the loss: what `wish` names, else an output called loss, else the only scalar."""
    outputs = _known_outputs(program, state)
    scalars = [path for path, value in outputs.items() if state.values[value].shape == ()]
    lines = _spelled(outputs, state)
    if wish is not None and wish not in outputs:
        fault = f"there is no output {wish!r}{nearest(wish, outputs)}"
        raise CaptureError(
            refusal(f"loss of {name}", fault, "--loss names an output of forward", lines, "name one of those")
        )
    only = scalars[0] if len(scalars) == 1 else None
    path = wish if wish is not None else "loss" if "loss" in outputs else only
    if path is None or state.values[outputs[path]].shape != ():
        fault = "several outputs are scalars" if len(scalars) > 1 else "no output is a scalar"
        rule = "forward returns the loss: a scalar, alone or in a field called loss"
        fix = "return the loss from forward (one number: .mean() or .sum()), or name it with --loss"
        raise CaptureError(refusal(f"loss of {name}", fault, rule, lines, fix))
    if not state.values[outputs[path]].differentiable:
        rule = "the loss must depend on a parameter that requires grad"
        raise CaptureError(refusal(f"loss of {name}", f"no gradient flows to {path or 'the output'}", rule, lines))
    return path, outputs[path]


def _returned(
    program: ExportedProgram, state: _Translation, name: str, paths: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """The outputs that were asked for, each with its value. Raises CaptureError for one that forward does not return."""
    outputs = _known_outputs(program, state)
    missing = [f"{path!r} is none{nearest(path, outputs)}" for path in paths if path not in outputs]
    if missing:
        rule = "an output is a tensor that forward returns, by its key, field or index: " + ", ".join(outputs)
        fix = "name one of those, nested ones joined by dots"
        raise CaptureError(refusal(f"outputs of {name}", "not returned by forward", rule, missing, fix))
    return tuple((path, outputs[path]) for path in dict.fromkeys(paths))


def _known_outputs(program: ExportedProgram, state: _Translation) -> dict[str, str]:
    """Every tensor that forward returns by its path, and its value in the graph."""
    outputs = {path: state.alias.get(value, value) for path, value in _outputs(program).items()}
    return {path: value for path, value in outputs.items() if value in state.values}


def _spelled(outputs: Mapping[str, str], state: _Translation) -> list[str]:
    return [f"{path or 'the output'}: {_spell(state.values[value])}" for path, value in outputs.items()]


def _outputs(program: ExportedProgram) -> Mapping[str, str]:
    """FX name of each user output by its path: ``loss``, ``0``, ``aux.loss``; an empty path for an only output."""
    spec = program.call_spec.out_spec
    assert spec is not None
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [_path(pytree.keystr(path)) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    results = [result for result in program.graph_signature.output_specs if result.kind is OutputKind.USER_OUTPUT]
    named = [(path, result.arg) for path, result in zip(paths, results, strict=True)]
    return {path: arg.name for path, arg in named if not isinstance(arg, ConstantArgument)}


def _path(key: str) -> str:
    """``['aux'][0]`` and ``.aux[0]`` as ``aux.0``."""
    return ".".join(re.findall(r"[^\[\]'\".]+", key))


def _spell(value: Value) -> str:
    return f"{value.dtype} {value.shape}" if value.shape else f"{value.dtype} scalar"
