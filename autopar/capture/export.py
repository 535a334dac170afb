"""`torch.export` with refusals that a user can act on: a module and its arguments to a functional FX graph.

``export(strict=False)`` runs forward once on fake tensors; ``run_decompositions({})`` then removes in-place updates and
keeps composite operators whole. It also forgets ``torch.no_grad()`` regions, and with them that no gradient flows
through their results; these are therefore marked with a detach before.
"""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import warnings
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from autopar.capture.build import describe
from autopar.capture.source import frames_of_error, innermost, user_files
from autopar.errors import CaptureError, refusal

_DATA_WORDS = ("data-dependent", "datadependent", ".numpy()", "_local_scalar_dense", ".item()", ".tolist()")
DATA_RULE = "one program serves all steps, so forward must not look at the numbers in a tensor"
DATA_FIX = (
    "keep it a tensor: choose with torch.where instead of `if`, drop .item(), .tolist() and .numpy(), multiply by a "
    "mask instead of indexing with one; or decide by a Python value that is set before training"
)


def export(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str) -> ExportedProgram:
    """The functional program of ``module(*args, **kwargs)`` in its own training mode. Raises CaptureError."""
    try:
        with _quiet():
            program = torch.export.export(module, args, kwargs, strict=False)
            _keep_no_grad(program.graph_module)
            functional: ExportedProgram = program.run_decompositions({})
            return functional
    except Exception as error:  # forward is the user's and may raise anything
        raise CaptureError(_explain(error, module, args, kwargs, name)) from error


def _explain(
    error: Exception, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str
) -> str:
    frame = innermost(frames_of_error(error), user_files(module))
    where = f"{frame.place}: `{frame.code}`" if frame else f"{name} ({type(module).__name__})"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, GuardOnDataDependentSymNode) or any(word in str(error).lower() for word in _DATA_WORDS):
        return refusal(where, "forward depends on the values of a tensor", DATA_RULE, [said], DATA_FIX)
    given = f"forward stops with {type(error).__name__}: {said}"
    fix = "mend this line, or make example_inputs what the model expects"
    return refusal(where, given, "forward must run on the example inputs", describe(args, kwargs), fix)


def _keep_no_grad(root: fx.GraphModule) -> None:
    """Detach every result of a no_grad region, in place, in the graph and in those nested in it."""
    for part in root.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                if str(node.target) == "wrap_with_set_grad_enabled" and node.args[0] is False:
                    for user in [user for user in node.users if user.target is operator.getitem]:
                        _detach_after(part.graph, user)
            part.recompile()


def _detach_after(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_after(node):
        detached = graph.call_function(torch.ops.aten.detach.default, (node,))
    detached.meta = dict(node.meta)
    node.replace_all_uses_with(detached, delete_user_cb=lambda user: user is not detached)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch logs and prints what it raises as well; the exception says it once and in our words."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch's own use of it
            yield
    finally:
        logging.disable(level)
