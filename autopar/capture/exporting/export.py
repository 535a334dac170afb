"""`torch.export` with refusals that a user can act on: a module and its arguments to a functional FX graph.

``export(strict=False)`` runs forward once on fake tensors; ``run_decompositions`` then removes in-place updates and keeps
composite operators whole, but for the few of `decompose`. It also forgets ``torch.no_grad()`` regions, and with them that
no gradient flows through their results; these are therefore marked with a detach before (`no_grad`).
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from autopar.capture.diagnostics import refusals
from autopar.capture.diagnostics.logs import quiet
from autopar.capture.diagnostics.refusals import NumberTaken
from autopar.capture.diagnostics.source_lines import frames_of_error, frames_of_text, innermost, user_files
from autopar.capture.exporting import decompositions
from autopar.capture.exporting.fake_module import describe
from autopar.capture.exporting.functionalization import without_writes
from autopar.capture.exporting.memory_views import tell_of_flat
from autopar.capture.exporting.no_grad_regions import detach_in_words, itself_without_gradient, keep_no_grad
from autopar.capture.exporting.outputs import only_tensors
from autopar.capture.state.attributes import state_seen
from autopar.capture.state.autograd_functions import functions_as_calls
from autopar.capture.state.buffer_writes import writing
from autopar.capture.state.gradient_hooks import no_hooks
from autopar.capture.state.python_state import check_state
from autopar.capture.state.unrecorded_writes import keep_gradients
from autopar.capture.state.untouched_module import untouched
from autopar.capture.tracing.known_numbers import KnownNumbers
from autopar.capture.tracing.lean_tracing import lean_tracing
from autopar.capture.tracing.regions import graph_modules
from autopar.capture.tracing.reworded_calls import largest_shapes
from autopar.errors import CaptureError


def traced(
    module: nn.Module,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    name: str,
    rows: Sequence[torch.Tensor] = (),
    *,
    state: bool = False,
) -> ExportedProgram:
    """The program as torch.export gives it; with a symbol for the extent of dim 0 of the inputs `rows`.

    Raises CaptureError; with `state` also where forward depends on what it keeps in Python.
    """
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in rows:
        shapes[tensor] = {0: Dim.AUTO}
    with _explained(module, args, kwargs, name):
        with contextlib.ExitStack() as around:
            for manager in (
                quiet(),
                lean_tracing(),
                untouched(module),
                no_hooks(module),
                functions_as_calls(module),
                largest_shapes(),
            ):
                around.enter_context(manager)
            caches = around.enter_context(writing(module))
            around.enter_context(only_tensors(module))
            _name_keywords(module, kwargs)
            with KnownNumbers(), state_seen(module) as names:
                program = torch.export.export(
                    module, args, kwargs, strict=False, dynamic_shapes=shapes if rows else None
                )
        if (names or caches) and state:
            with quiet(), untouched(module):
                check_state(module, args, kwargs, names, caches)
        return program


def _name_keywords(module: nn.Module, kwargs: Mapping[str, object]) -> None:
    """Of ``forward(**inputs)`` the signature for these inputs: torch.export knows of symbols for inputs with names only.

    Forward is `writing`'s, which goes when that does.
    """
    forward: Any = module.forward
    signature = inspect.signature(forward)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    known = {parameter.name for parameter in own}
    named = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in kwargs if key not in known]
    if len(own) < len(signature.parameters):
        forward.__signature__ = signature.replace(parameters=[*own, *named])


def functional(
    program: ExportedProgram, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str
) -> ExportedProgram:
    """The program without updates in place, and its few operators of `decompose` written out. Raises CaptureError."""
    with (
        _explained(module, args, kwargs, name),
        quiet(),
        lean_tracing(),
        untouched(module),
        functions_as_calls(module),
        largest_shapes(),
    ):
        lines = _lines_inside(program.graph_module)
        detach_in_words(program.graph_module)
        itself_without_gradient(program.graph_module)
        keep_gradients(program, user_files(module))
        keep_no_grad(program.graph_module)
        tell_of_flat(program.graph_module, user_files(module))
        table = decompositions.table()
        if without_writes(program, table):
            return program
        decomposed: ExportedProgram = program.run_decompositions(table)
        _restore_lines(decomposed.graph_module, lines)
        return decomposed


@contextlib.contextmanager
def _explained(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str) -> Iterator[None]:
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:  # forward is the user's and may raise anything
        raise CaptureError(_explain(error, module, args, kwargs, name)) from error


def _explain(
    error: Exception, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], name: str
) -> str:
    files = frozenset[str]() if isinstance(error, NumberTaken) else user_files(module)  # of a number, the very line
    frame = innermost(frames_of_error(error), files) or innermost(frames_of_text(str(error)), files)
    where = frame.text if frame else f"{name} ({type(module).__name__})"
    return refusals.explain(error, where, describe(args, kwargs))


def _lines_inside(root: fx.GraphModule) -> dict[str, str]:
    """The user's stack of each call in a nested graph (a no_grad region), by the call's name there; unclear ones left out."""
    sources: dict[str, set[str]] = {}
    for part in graph_modules(root)[1:]:
        for node in part.graph.nodes:
            sources.setdefault(node.name, set()).add(node.meta.get("stack_trace") or "")
    return {name: next(iter(stacks)) for name, stacks in sources.items() if len(stacks) == 1}


def _restore_lines(root: fx.GraphModule, lines: Mapping[str, str]) -> None:
    """Nested graphs are inlined by running them: their calls then stand on lines of generated code, ``mul_ = torch.ops...``."""
    for node in root.graph.nodes:
        names = re.findall(r"<eval_with_key>[^\n]*\n\s*(\w+) =", node.meta.get("stack_trace") or "")
        if names and lines.get(names[-1]):
            node.meta["stack_trace"] = lines[names[-1]]
