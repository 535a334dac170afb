"""What a model may not contain, told at the user's own line with a way out: the refusals of a capture.

tensors     dtypes and layouts that nothing here computes with
operators   control flow, numbers taken out of tensors, operators that write in place or that nobody can run
writing     in place, to what is not forward's own
anything    that torch.export itself raises, sorted by what would mend it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from autopar.capture.diagnostics.source_lines import Frame, node_line
from autopar.errors import CaptureError, refusal
from autopar.ir.graph import ITEMSIZE

DATA_RULE = "one program serves all steps, so forward must not look at the numbers in a tensor"
DATA_FIX = (
    "keep it a tensor: choose with torch.where instead of `if`, drop .item(), .tolist() and .numpy(), multiply by a "
    "mask instead of indexing with one; write rows from a place in a buffer as x[ptr : ptr + n], with n known, or by their "
    "numbers, rows = (self.at + torch.arange(n)) % size; x[rows] = y; or decide by a Python value that is set before training"
)
_PLACE_RULE = (
    "forward may write to tensors of its own, to buffers, and without a gradient to parameters; not to inputs, or views that "
    "autograd shares"
)
_PLACE_FIX = (
    "compute a new tensor: y = torch.where(...), torch.cat(...), or y = x.clone() and write to y; a state that outlives the "
    "step is a buffer (register_buffer), written with copy_ or add_"
)
_KERNEL_RULE = (
    "an operator has a kernel that computes it, and one that only tells the shapes of its results (fake, or meta)"
)
_KERNEL_FIX = (
    "register what is missing with torch.library (register_fake for shapes, register_kernel or impl for 'CPU'), "
    "or write the line with other operators"
)
GRADIENT_RULE = (
    "a program goes backward once, from the loss; a gradient that is itself a part of forward is not in its graph"
)
GRADIENT_FIX = (
    "write the derivative out, or take derivatives along directions, forward: "
    "y, dy = torch.func.jvp(f, (x,), (v,)); a penalty on gradients of parameters is a step of its own, outside of the model"
)
_LSTSQ = "aten.linalg_lstsq.default"
_GRADIENT_WORDS = ("functorch tensor", "tensorwrapper", "'tensor' object has no attribute 'constant'")
_DATA_WORDS = ("data-dependent", "datadependent", ".numpy()", "_local_scalar_dense", ".item()", ".tolist()")
_PLACE_WORDS = ("in-place operation", "inplace", "is mutated in the forward", "written-to tensor", "in place")
_KERNEL_WORDS = (
    "no fake impl",
    "could not run 'aten",
    "not implemented for",
    "cannot access storage",
    "could not find kernel",
)
_FIXES = {
    "float8": "compute in bfloat16 (torch.autocast), and keep such tensors out of the model",
    "uint": "use int32 or int64",
    "complex": "use complex64",
    "sparse": "keep it dense: index, gather and scatter_add, or call to_dense() on it before the model",
    "quantised": "compile the model in floating point, and quantise what was trained",
    "nested": "pad it to one shape, with a mask",
}


class NumberTaken(Exception):
    """Forward wants to see the numbers in a tensor that it computes."""


class NotAllowed(Exception):
    """Raised inside forward while it is traced: what was given, the rule, a way out; the line is read off the stack."""

    def __init__(self, fault: str, rule: str, fix: str) -> None:
        super().__init__(fault)
        self.rule = rule
        self.fix = fix


def unsupported(tensor: torch.Tensor) -> str:
    """Of what kind a tensor is that nothing here computes with, or nothing."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        kind = "sparse" if "sparse" in str(tensor.layout) else str(tensor.layout)
        return f"a {kind.removeprefix('torch.')} tensor ({tensor.layout})"
    if tensor.is_quantized:
        return f"a quantised tensor ({dtype})"
    return "" if dtype in ITEMSIZE else f"a tensor of dtype {dtype}"


def tensor_text(tensor: torch.Tensor) -> str:
    """``float32 (8, 3)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def check_tensors(where: str, named: Iterable[tuple[str, object]]) -> None:
    """Raise CaptureError for inputs, parameters or buffers of a kind that is not supported."""
    reasons = [(name, unsupported(tensor)) for name, tensor in named if isinstance(tensor, torch.Tensor)]
    offenders = [f"{name}: {kind}" for name, kind in reasons if kind]
    if offenders:
        raise _unsupported(where, "tensors of an unsupported kind", offenders)


def _unsupported(where: str, fault: str, offenders: Sequence[str]) -> CaptureError:
    text = " ".join([fault, *offenders])
    fix = next((fix for word, fix in _FIXES.items() if word in text), "convert it before the model")
    rule = f"tensors are dense, of dtype {', '.join(ITEMSIZE)}"
    return CaptureError(refusal(where, fault, rule, offenders, fix))


def check_node(node: fx.Node, results: Sequence[object], frame: Frame | None) -> None:
    """Raise CaptureError for an operator that cannot stand in a straight graph of tensors."""
    where = frame.text if frame else f"operator {node.target}"
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise _higher_order(where, node)
    if str(node.target) == _LSTSQ and any(user.users for user in node.users if user.args[1] == 1):
        fault = "forward reads the residuals of lstsq(), of which there are none where the matrix lacks rank"
        raise CaptureError(refusal(where, fault, DATA_RULE, fix="compute them: (a @ x - b).square().sum(-2)"))
    for result in results:
        if not isinstance(result, torch.Tensor):
            fault = f"{node.target} takes a Python number out of a tensor"
            raise CaptureError(refusal(where, fault, DATA_RULE, fix=DATA_FIX))
        if not all(isinstance(n, int) for n in result.shape):
            fault = f"the shape of {node.target}'s result depends on the values of a tensor"
            raise CaptureError(refusal(where, fault, DATA_RULE, fix=DATA_FIX))
        if kind := unsupported(result):
            raise _unsupported(where, f"{node.target} makes {kind}", ())
    dtypes = [arg for arg in (*node.args, *node.kwargs.values()) if isinstance(arg, torch.dtype)]
    if strange := [
        f"{dtype}".removeprefix("torch.") for dtype in dtypes if f"{dtype}".removeprefix("torch.") not in ITEMSIZE
    ]:
        kind = "a quantised tensor" if strange[0].startswith(("qint", "quint")) else "a tensor of dtype"
        raise _unsupported(where, f"{node.target} makes {kind} {strange[0]}", ())
    if isinstance(node.target, torch._ops.OpOverload) and not _computable(node.target):
        lacks = f"{node.target} has no kernel: nothing computes it on CPU or CUDA"
        raise CaptureError(refusal(where, lacks, _KERNEL_RULE, fix=_KERNEL_FIX))


def _higher_order(where: str, node: fx.Node) -> CaptureError:
    """Control flow, or the wrapper that torch puts around an operator that writes to its arguments."""
    if str(node.target).startswith("auto_functionalized"):
        rule = "the operators of a graph return new tensors"
        fix = "give it a form that returns its result (torch.library.custom_op with mutates_args=()), and call that"
        return CaptureError(refusal(where, f"{node.args[0]} changes its arguments in place", rule, fix=fix))
    rule = "a graph is a straight list of operators"
    fix = "write both branches or all iterations out, and choose with torch.where"
    return CaptureError(refusal(where, f"{node.target} is control flow inside the graph", rule, fix=fix))


def _computable(target: torch._ops.OpOverload) -> bool:
    if target.namespace in ("aten", "prims"):
        return True
    schema, known = target._schema, torch._C._dispatch_has_computed_kernel_for_dispatch_key
    name = f"{schema.name}.{schema.overload_name}".rstrip(".")
    return any(known(name, key) for key in ("CPU", "CUDA"))


def check_inputs_kept(program: ExportedProgram, files: frozenset[str]) -> None:
    """Raise CaptureError where forward changes an input in place."""
    changed = [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_INPUT_MUTATION]
    if changed:
        where = next(filter(None, (_line_of(program, spec, files) for spec in changed)), "forward")
        fault = "it writes to an input in place"
        raise CaptureError(refusal(where, fault, _PLACE_RULE, [str(spec.target) for spec in changed], _PLACE_FIX))


def _line_of(program: ExportedProgram, spec: OutputSpec, files: frozenset[str]) -> str:
    """The line that computes what is written last, or what goes into it."""
    near = [node for node in program.graph.nodes if node.name == getattr(spec.arg, "name", "")]
    for _ in range(4):
        for node in near:
            if line := node_line(node, files):
                return line
        near = [source for node in near for source in node.all_input_nodes]
    return ""


def explain(error: Exception, where: str, inputs: Sequence[str]) -> str:
    """The refusal of what torch.export, or forward under it, has raised; `given` describes the inputs."""
    if isinstance(error, NotAllowed):
        return refusal(where, str(error), error.rule, fix=error.fix)
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    words = f"{type(error).__name__} {error}".lower()
    if any(word in words for word in _GRADIENT_WORDS):
        fault = "forward takes a gradient (torch.func: grad, vjp, jacrev or hessian)"
        return refusal(where, fault, GRADIENT_RULE, [said], GRADIENT_FIX)
    if isinstance(error, GuardOnDataDependentSymNode | NumberTaken) or any(word in words for word in _DATA_WORDS):
        return refusal(where, "forward depends on the values of a tensor", DATA_RULE, [said], DATA_FIX)
    if "as_strided() is non-compositional" in words:
        fault = "a tensor is written through as_strided"
        return refusal(where, fault, _PLACE_RULE, fix=f"write to a tensor of its own; {_PLACE_FIX}")
    if any(word in words for word in _PLACE_WORDS):
        return refusal(where, "a tensor is changed in place that must not be", _PLACE_RULE, [said], _PLACE_FIX)
    if type(error).__name__ == "UnsupportedOperatorException":
        return refusal(where, f"{said} tells no shapes", _KERNEL_RULE, fix=_KERNEL_FIX)
    if any(word in words for word in _KERNEL_WORDS):
        return refusal(where, "an operator has no kernel for these tensors", _KERNEL_RULE, [said], _KERNEL_FIX)
    fix = (
        "mend this line, or make example_inputs what the model expects: some models do without an input (a mask) only while "
        "they are not traced (torch.compiler.is_compiling)"
    )
    stops = f"forward stops with {type(error).__name__}: {said}"
    return refusal(where, stops, "forward must run on the example inputs", inputs, fix)
