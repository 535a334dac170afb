"""AnnotatedGraph -> DividedGraph: the graph of a micro-batch, whose losses and gradients add up to those of the whole batch.

The calls are gone through in their order, and each is put in words that hold for some rows of a batch:

    mean over the batch               as it is: that of the whole batch is the mean of these, each weighted by its share of the rows
    cross entropy, mean of samples    the sum, over a count of the whole batch's samples
    (x * m).sum() / m.sum()           the sum, over m.sum() of the whole batch
    x.sum() + penalty(w)              penalty(w) times the share of the rows

Counts of the whole batch depend on inputs alone. They have a graph of their own, which is computed for all micro-batches first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from autopar.errors import ConfigError, refusal
from autopar.ir.graph import Argument, BatchDivision, Graph, Input, Node, Ref, Value, check
from autopar.ir.layout import Partial, Replicate, Shard
from autopar.ops.annotated import AnnotatedCall, AnnotatedGraph
from autopar.ops.lookup import call_of, record_of_call
from autopar.partitioner.microbatches.batch_letter import CallPair
from autopar.partitioner.microbatches.call_in_time import InTime, in_time
from autopar.partitioner.microbatches.time_layouts import ADDEND, WHOLE, Mean, Stuck, TimeLayout, Unsummed

_COUNTED = (
    "aten.cross_entropy_loss.default", "aten.nll_loss_nd.default", "aten.nll_loss.default", "aten.nll_loss2d.default"
)  # fmt: skip
_MEAN, _SUM = 1, 2
_REDUCTION = 3  # the argument of those
_WAY_OUT = "compile without micro-batches (--microbatches 1)"
_STATISTICS = (
    f"{_WAY_OUT}; or let the model use no statistics of the batch: group or layer norm in place of batch norm, or batch norm by "
    "its running statistics (norm.eval())"
)


@dataclass(frozen=True, slots=True)
class DividedGraph:
    """The graph of a micro-batch, and that of the counts which it reads; None where it reads none."""

    graph: Graph
    counts: Graph | None


@dataclass(frozen=True, slots=True)
class DivisionSubject:
    """What is divided: the graph with `rows` rows in these inputs, and the same model's graph with `other` rows."""

    here: AnnotatedGraph
    there: AnnotatedGraph
    rows: int
    other: int
    inputs: tuple[str, ...]


def divide(subject: DivisionSubject) -> DividedGraph:
    """The graph of a micro-batch. Raises ConfigError, which names the call, where the loss cannot be taken in addends."""
    _check_alike(subject)
    builder = _Builder(subject)
    for node in subject.here.graph.nodes:
        builder.add(node)
    return builder.divided()


def _check_alike(subject: DivisionSubject) -> None:
    """Raise ConfigError unless the two graphs make the same calls."""
    one, two = subject.here.graph, subject.there.graph
    alike = [(node.name, node.target, node.outputs) for node in one.nodes] == [
        (node.name, node.target, node.outputs) for node in two.nodes
    ]
    if not subject.inputs:
        raise ConfigError(
            refusal(one.name, "no input has rows", "micro-batches are some rows of a batch", fix=_WAY_OUT)
        )
    if not alike:
        given = f"with {subject.other} rows, forward makes other calls than with {subject.rows}"
        rule = "every micro-batch is computed as the whole batch is"
        raise ConfigError(refusal(one.name, given, rule, fix=_WAY_OUT))


class _Builder:
    """The graph while it is put together."""

    def __init__(self, subject: DivisionSubject) -> None:
        self.subject = subject
        self.graph = graph = subject.here.graph
        self.layouts: dict[str, TimeLayout] = dict.fromkeys(graph.external, WHOLE)
        self.layouts |= {item.value: Shard(0) for item in graph.inputs if item.name in subject.inputs}
        self.nodes: list[Node] = []
        self.values = dict(graph.values)
        self.known: dict[str, str] = {}  # the value that stands for another one from here on
        self.shares: dict[str, str] = {}
        self.counts: dict[str, str] = {}  # per value of the counts' graph the input that it is
        self.makers: dict[str, Node] = {}
        self.drawn: dict[str, Shard] = {}

    def add(self, node: Node) -> None:
        """A call, in words that hold for a micro-batch."""
        item, other = self.subject.here.calls[node.name], self.subject.there.calls[node.name]
        counted = _mean_of_samples(item) and isinstance(self.layouts[node.inputs[0]], Shard)
        if counted:
            item, other = _summed(self.graph, node), _summed(self.subject.there.graph, other.node)
        plain = self._in_time(item, other)
        names = [self._share(name, node) if i in plain.shared else name for i, name in enumerate(node.inputs)]
        read = _renamed(item.node, [self.known.get(name, name) for name in names])
        if counted:
            self._counted(read)
            return
        if _draws(item) and isinstance(plain.results[0], Shard):
            self.drawn[node.name] = plain.results[0]
        outputs = tuple(f"{name}_of_rows" if name and plain.scaled else name for name in read.outputs)
        self._append(replace(read, outputs=outputs), plain.results)
        for made, name in zip(outputs, node.outputs, strict=True):
            if made != name:
                self._scaled(made, name, node, self.layouts[made])

    def _append(self, node: Node, results: Iterable[TimeLayout]) -> None:
        self.nodes.append(node)
        for name, layout in zip(node.outputs, results, strict=True):
            if name:
                self.layouts[name] = layout
                self.makers[name] = node

    def _in_time(self, item: AnnotatedCall, other: AnnotatedCall) -> InTime:
        """What becomes of the call; counts that it needs are taken out of the graph on the way. Raises ConfigError."""
        node = item.node
        pair = CallPair(item, other, self.subject.rows, self.subject.other)
        while True:
            try:
                return in_time(pair, [self._layout(name) for name in node.inputs])
            except Unsummed as need:
                for i in need.operands:
                    self._take_out(node.inputs[i], node, str(need))
            except Stuck as why:
                raise _refused(node, str(why)) from why

    def _layout(self, name: str) -> TimeLayout:
        return self.layouts[self.known.get(name, name)]

    def _share(self, name: str, reader: Node) -> str:
        """A value times the share of the micro-batch."""
        name = self.known.get(name, name)
        if name not in self.shares:
            self.shares[name] = f"{name}_share"
            self._scaled(name, self.shares[name], reader, ADDEND)
        return self.shares[name]

    def _scaled(self, name: str, target: str, reader: Node, layout: TimeLayout) -> None:
        value = self.values.get(name, self.graph.values.get(target))
        assert value is not None
        self.values[name], self.values[target] = replace(value, name=name), replace(value, name=target)
        node = Node(
            f"{target}_scaled", "autopar.share", (Ref(name),), (), (target,), reader.module, reader.source, reader.code
        )
        self._append(node, (layout,))

    def _counted(self, total: Node) -> None:
        """A cross entropy: the sum of the samples' losses over the number of those that count."""
        (out,), (_, target, weight, *rest) = total.outputs, total.args
        value = self.values[out]
        summed, count = f"{out}_sum", f"{out}_samples"
        self.values[summed] = replace(value, name=summed)
        self.values[count] = Value(count, (), "float64", False)
        ignored = rest[1] if len(rest) > 1 else -100
        place = (total.module, total.source, total.code)
        self._append(Node(count, "autopar.sample_count", (target, weight, ignored), (), (count,), *place), (ADDEND,))
        self._append(replace(total, outputs=(summed,)), (ADDEND,))
        self._take_out(count, total, "its count of samples is the whole batch's", f"{out}_count", value.dtype)
        read = Ref(self.known[count])
        self._append(
            Node(f"{total.name}_over_count", "aten.div.Tensor", (Ref(summed), read), (), (out,), *place), (ADDEND,)
        )

    def _take_out(self, name: str, reader: Node, why: str, known: str = "", dtype: str = "") -> None:
        """Let a number of the whole batch be computed first, from inputs alone. Raises ConfigError where it depends on more."""
        value, maker = self.values[name], self.makers.get(name)
        if value.differentiable or value.numel != 1 or maker is None:
            raise _refused(reader, f"{why}: {_maker(maker, name)}")
        trained = {item.value for item in self.graph.parameters if item.kind == "parameter"}
        behind = _ancestors(maker, self.makers)
        read = {name for node in (*behind, maker) for name in node.inputs}
        random = any(
            self.subject.here.calls[node.name].op.random for node in behind if node.name in self.subject.here.calls
        )
        if read & (trained | set(self.known.values())) or random:
            raise _refused(reader, f"{why}, and it does not follow from the inputs alone: {_maker(maker, name)}")
        addend = self._share(name, maker) if isinstance(self.layouts[name], Mean) else name
        known = self.known[name] = known or f"{name}_of_batch"
        self.counts[addend] = known
        self.values[known] = replace(value, name=known, dtype=dtype or value.dtype)
        self.layouts[known] = WHOLE

    def divided(self) -> DividedGraph:
        """The two graphs. Raises ConfigError where a buffer's new value depends on the batch."""
        graph = self.graph
        self._check_updates()
        loss = self.known.get(graph.loss, graph.loss)
        if not isinstance(self.layouts[loss], Partial):
            loss = self._share(loss, next(node for node in reversed(graph.nodes) if graph.loss in node.outputs))
        outputs = tuple((path, self.known.get(name, name)) for path, name in graph.outputs)
        updates = tuple((name, self.known.get(value, value)) for name, value in graph.updates)
        lie = tuple(str(self.layouts[name]) for _, name in outputs)
        division = BatchDivision(tuple(self.counts.values()), lie, tuple(self.drawn.items()))
        inputs = (*graph.inputs, *(Input(name, name) for name in self.counts.values()))
        whole = replace(
            graph, inputs=inputs, nodes=tuple(self.nodes), values=self.values, loss=loss, outputs=outputs, updates=updates,
            division=division,
        )  # fmt: skip
        needed = [*whole.returned, *(value for _, value in updates)]
        return DividedGraph(_reaching(whole, needed), self._counts() if self.counts else None)

    def _counts(self) -> Graph:
        first, *others = self.counts
        graph = replace(
            self.graph, nodes=tuple(self.nodes), values=self.values, loss=first, updates=(), loss_path="",
            outputs=tuple((name, name) for name in others), division=BatchDivision((), ("partial",) * len(others)),
        )  # fmt: skip
        read = {name for node in _reaching(graph, list(self.counts)).nodes for name in node.inputs}
        parameters = tuple(item for item in graph.parameters if item.value in read)
        return _reaching(replace(graph, parameters=parameters), list(self.counts))

    def _check_updates(self) -> None:
        makers = self.graph.producers()
        for buffer, value in self.graph.updates:
            if not isinstance(self._layout(value), Replicate):
                raise _refused(makers[value], f"the buffer {buffer} takes a value that depends on the whole batch")


def _draws(item: AnnotatedCall) -> bool:
    """Whether the call draws random numbers."""
    if "attention" in item.node.target:
        return bool(item.call.arg(4, "dropout_p", 0.0))
    return item.op.random


def _mean_of_samples(item: AnnotatedCall) -> bool:
    """Whether the call is the mean of the losses of those samples whose class index is not ignored."""
    call = item.call
    if item.node.target not in _COUNTED or item.rule.refused or len([name for name in item.node.outputs if name]) != 1:
        return False
    indices = not call.operands[1].dtype.startswith(("float", "bfloat"))
    return indices and len(item.node.outputs) == 1 and call.arg(_REDUCTION, "reduction", _MEAN) == _MEAN


def _summed(graph: Graph, node: Node) -> AnnotatedCall:
    """The same call without the division."""
    args: tuple[Argument, ...] = (*node.args, None, None)[:_REDUCTION]
    node = replace(node, args=(*args, _SUM, *node.args[_REDUCTION + 1 :]))
    call = call_of(graph, node)
    op, rule = record_of_call(call)
    return AnnotatedCall(node, op, call, rule)


def _renamed(node: Node, names: Iterable[str]) -> Node:
    """The call with other operands, in the order of ``node.inputs``."""
    given = iter(names)

    def renamed(argument: Argument) -> Argument:
        if isinstance(argument, Ref):
            return Ref(next(given))
        return tuple(map(renamed, argument)) if isinstance(argument, tuple) else argument

    args = tuple(map(renamed, node.args))
    return replace(node, args=args, kwargs=tuple((name, renamed(value)) for name, value in node.kwargs))


def _ancestors(node: Node, makers: Mapping[str, Node]) -> list[Node]:
    """The calls that a call's operands come from."""
    found: dict[str, Node] = {}
    pending = [name for name in node.inputs if name in makers]
    while pending:
        maker = makers[pending.pop()]
        if maker.name not in found:
            found[maker.name] = maker
            pending += [name for name in maker.inputs if name in makers]
    return list(found.values())


def _reaching(graph: Graph, wanted: Iterable[str]) -> Graph:
    """The graph without what none of these values is made from; inputs and parameters stay."""
    needed, kept = set(wanted), list[Node]()
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed |= set(node.inputs)
    made = {name for node in kept for name in node.outputs}
    values = {name: value for name, value in graph.values.items() if name in made | graph.external}
    found = replace(graph, nodes=tuple(kept[::-1]), values=values)
    check(found)
    return found


def _maker(maker: Node | None, name: str) -> str:
    if maker is None:
        return name
    return f"that of {maker.source}: `{maker.code}`" if maker.source else maker.name


def _refused(node: Node, why: str) -> ConfigError:
    where = f"{node.source}: `{node.code}`" if node.source else node.name
    rule = "what a micro-batch computes of its own rows adds up to what the whole batch computes"
    fix = _STATISTICS if "norm" in node.target else _WAY_OUT
    return ConfigError(refusal(f"micro-batches: {where}", f"{node.target}: {why}", rule, fix=fix))
