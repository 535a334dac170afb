"""Numbers that forward draws from Python's or numpy's generators: a capture would hold those of one call for ever.

torch's own random operators are part of the graph and are drawn anew in every step. Other generators are seen by no trace, so
a model that has used one is captured again, a few times, with other numbers. Where the graph stays the same, they did not
matter (a layer that is dropped with probability 0); where it does not, the model is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from autopar.capture.state.untouched_module import advanced
from autopar.errors import CaptureError, refusal
from autopar.ir.graph import Graph, Node

Captures = Callable[[], tuple[Graph, dict[str, torch.Tensor]]]
_AGAIN = 3  # captures with other numbers


def drawn_with(capture: Captures, module: nn.Module) -> tuple[Graph, dict[str, torch.Tensor]]:
    """What `capture` returns. Raises CaptureError where it depends on numbers of Python's or numpy's generators.

    Those that the module holds are put back by every capture, so that nothing tells whether they were used.
    """
    before = _states()
    with advanced(module, 0) as held:
        graph, constants = capture()
    if held or _states() != before:
        for i in range(_AGAIN):
            with advanced(module, i + 1):
                _refuse_differences(graph, constants, *capture())
    return graph, constants


def _states() -> tuple[object, ...]:
    numbers = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numbers["key"].tobytes(), numbers["pos"]


def _refuse_differences(
    graph: Graph, constants: Mapping[str, torch.Tensor], other: Graph, others: Mapping[str, torch.Tensor]
) -> None:
    changed = differing(constants, others)
    values = {item.value for item in graph.parameters if item.name in changed}
    if graph == other and not changed:
        return
    pairs = zip(graph.nodes, other.nodes, strict=False)
    lines = [_line(node) for node, twin in pairs if node != twin or values & set(node.inputs)]
    rule = "one program serves all steps: numbers that Python or numpy draws would stay those of the capture"
    fix = "draw with torch (torch.rand, dropout), whose numbers are part of the program, or set the probability to 0"
    fault = "forward draws from Python's or numpy's random generator"
    raise CaptureError(refusal(lines[0] if lines else graph.name, fault, rule, list(dict.fromkeys(lines))[:5], fix))


def differing(constants: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> set[str]:
    """The names of the constants that another capture has not, or with other numbers."""
    same = {key for key, value in constants.items() if key in others and torch.equal(value, others[key])}
    return (constants.keys() | others.keys()) - same


def _line(node: Node) -> str:
    return f"{node.source}: `{node.code}`" if node.source else node.name
