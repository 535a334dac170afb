"""Graph -> AnnotatedGraph: what is known of every call, looked up once after capture and handed to all stages that follow.

No later stage asks for a record or a rule, so discovery runs here alone. A record that fails in a later stage makes the calls
of its operator whole (`autopar.ops.broken_records`); the graph that says so is annotated anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopar.ir.graph import Graph, Node
from autopar.ops.lookup import call_of, record_of_call, without_record
from autopar.ops.record.fallback import FALLBACK
from autopar.ops.record.op import Op
from autopar.ops.record.rule import Call, Rule
from autopar.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class AnnotatedCall:
    """A node, its record, its call with shapes and dtypes, and its rule; the record's note says why a call runs whole."""

    node: Node
    op: Op
    call: Call
    rule: Rule

    @property
    def ruled(self) -> bool:
        """Whether there are letters to split: of the operator's own record, or discovered."""
        return self.op is not FALLBACK and not self.rule.refused


@dataclass(frozen=True, slots=True)
class AnnotatedGraph:
    """A graph, its calls by name of their node, and the same model's graph with more rows where the batch may grow."""

    graph: Graph
    calls: Mapping[str, AnnotatedCall]
    larger: AnnotatedGraph | None = None


def annotate(graph: Graph, larger: Graph | None = None, tell: Progress = silent) -> AnnotatedGraph:
    """Find the record and the rule of every call; `tell` is told what running calls without a record shows."""
    calls_to_run = without_record(graph)
    if calls_to_run:
        from autopar.ops.discovery.discover import explore  # torch is not needed where every call has a record

        explore(calls_to_run, tell)
    more = None if larger is None else AnnotatedGraph(larger, _calls(larger))
    return AnnotatedGraph(graph, _calls(graph), more)


def _calls(graph: Graph) -> dict[str, AnnotatedCall]:
    calls: dict[str, AnnotatedCall] = {}
    for node in graph.nodes:
        call = call_of(graph, node)
        op, rule = record_of_call(call)
        calls[node.name] = AnnotatedCall(node, op, call, rule)
    return calls
