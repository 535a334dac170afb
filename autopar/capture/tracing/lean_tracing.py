"""torch's tracing without what nobody here reads: it takes a third of the time of a model of thousands of calls.

the text of every graph     compiled as Python whenever a graph is made or changed; here where a graph is called
the stack of every call     looked up and spelled frame by frame, torch's own included; here the others, each line once
where a call came from      copied with all its past by every pass
how a result lies           looked for among the formats of images, for torch's compiler
symbols for new numbers     looked for in every result; here where there are any
what a cast expects         a call of its own beside each cast, which asks for what the trace has seen
a log of what it does       spelled, with the text of every graph, for a file that nobody asks for
composite operators         kept whole by 22 kernels for each of 500, looked for and entered anew: `whole_operators`
sums of symbols             `remembering`
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx
from torch._export import utils
from torch._export.utils import _disable_aten_to_metadata_assertions, _get_shape_env_from_gm
from torch._logging._internal import trace_log
from torch.export import _trace, exported_program
from torch.fx import proxy
from torch.fx import traceback as of_nodes
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.graph_module import _forward_from_src
from torch.utils._sympy.symbol import SymT, symbol_is_type

from autopar.capture.diagnostics.source_lines import OURS, TORCH
from autopar.capture.tracing.memoized_symbols import remembering
from autopar.capture.tracing.patches import Patch, patched
from autopar.capture.tracing.whole_operators import kept_whole


@contextlib.contextmanager
def lean_tracing() -> Iterator[None]:
    """While active, torch traces so."""
    patches: tuple[Patch, ...] = (
        (fx.GraphModule, "recompile", _lazily(fx.GraphModule.recompile)),
        (proxy, "CapturedTraceback", _Stacks()),
        (of_nodes.NodeSource, "__init__", _no_past),
        (proxy_tensor, "_extract_tensor_metadata", _no_format),
        (_trace, "_replace_unbacked_bindings", _where_any(_trace._replace_unbacked_bindings)),
        (exported_program, "_override_composite_implicit_decomp", kept_whole),
        (trace_log, "handlers", []),
        (utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops)),  # once for all namespaces
    )
    with _disable_aten_to_metadata_assertions(), remembering(), patched(patches):
        yield


def _lazily(really: Any) -> Any:  # noqa: ANN401 (methods of a graph)
    """``recompile`` which leaves the work to the first call of the graph."""

    def recompile(self: Any) -> None:  # noqa: ANN401 (with attributes that its class does not declare)
        codegen = self._graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            self._in_spec, self._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
        type(self).forward = property(lambda self: _Forward(self, really))  # every graph has a class of its own
        for part in self.children():
            if isinstance(part, fx.GraphModule):
                part.recompile()

    return recompile


class _Forward:
    """``graph.forward`` as long as nobody has called it."""

    def __init__(self, graph: fx.GraphModule, really: Callable[[fx.GraphModule], object]) -> None:
        self._graph = graph
        self._really = really

    def __call__(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 (whatever the graph returns)
        """Compile it and call it."""
        self._really(self._graph)
        return self._graph.forward(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of its text: torch names inputs after it."""
        head = fx.Graph()
        for node in self._graph.graph.find_nodes(op="placeholder"):
            head.node_copy(node)
        head.output(())
        head.set_codegen(self._graph.graph._codegen)
        text = head.python_code("self")
        _, *others = inspect.signature(_forward_from_src(text.src, text.globals, {})).parameters.values()
        return inspect.Signature(others)


class _Stacks:
    """In the place of `CapturedTraceback`: the frames of a stack that are neither torch's nor ours."""

    def __init__(self) -> None:
        self._met: dict[tuple[str, int, str], traceback.FrameSummary] = {}

    def extract(self) -> _Stacks:
        """The stack of the caller, which is read at once."""
        return self

    def summary(self) -> traceback.StackSummary:
        """Its frames, outermost first."""
        frames: list[traceback.FrameSummary] = []
        frame: Any = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if not code.co_filename.startswith((TORCH, OURS)):
                frames.append(self._frame(code.co_filename, frame.f_lineno, code.co_name))
            frame = frame.f_back
        frames.reverse()
        return traceback.StackSummary.from_list(frames)

    def _frame(self, file: str, line: int, name: str) -> traceback.FrameSummary:
        key = file, line, name
        if key not in self._met:
            self._met[key] = traceback.FrameSummary(*key)
        return self._met[key]


def _no_past(self: of_nodes.NodeSource, node: fx.Node | None, pass_name: str = "", action: Any = None) -> None:  # noqa: ANN401
    self.pass_name = pass_name
    self.action = action if isinstance(action, list) else [] if action is None else [action]
    self.node_info = None if node is None else self.NodeInfo(node.name, str(node.target), id(node.graph))
    self.from_node = []
    self._action_string = self._dict = None


def _no_format(result: object) -> None:
    """In the place of what torch's compiler keeps of a result beside the result."""


def _where_any(really: Callable[[fx.GraphModule], None]) -> Callable[[fx.GraphModule], None]:
    """A pass about symbols for numbers that only a run tells, which says of most graphs that there are none."""

    def bindings(graph: fx.GraphModule) -> None:
        env: ShapeEnv | None = _get_shape_env_from_gm(graph)
        if env is None or any(
            symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)) for symbol in env.var_to_range
        ):
            really(graph)
            return
        for node in graph.graph.nodes:
            node.meta.pop("unbacked_bindings", None)

    return bindings
