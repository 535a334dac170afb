"""Programs for any number of rows: what follows the batch is printed for two batches, and merged where the two differ.

A model is captured twice, with B rows and with another number P of them. Where the two graphs are the same but for
numbers that are k B in one and k P in the other, the model computes each row in the same way, however many there are.
Each line is then printed for both, and the numbers in which the two texts differ become ``p.batch * k``. P is a
prime, so that of the factors that a dim is read as, only the batch's can have changed. What changes in any other way
(`Baked`) leaves the program at B rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from autopar.costmodel.redistribution import Conversion
from autopar.ir.graph import Argument, Graph, Node
from autopar.ir.layout import Layout, Layouts, Shard
from autopar.ops.annotated import AnnotatedCall, AnnotatedGraph
from autopar.ops.record.rule import Choice, Rule
from autopar.partitioner.formulation.dim_factors import DimFactor, DimFactors, of_letters, propagate
from autopar.partitioner.formulation.strategies import Strategy

_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.])")


class Baked(Exception):
    """Why a model's program is for the number of rows that it was captured with."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The graph of the same model with `other` rows instead of the `rows` of `base`; `inputs` names those that have rows."""

    base: Graph
    graph: Graph
    rows: int
    other: int
    inputs: tuple[str, ...]
    calls: Mapping[str, AnnotatedCall]
    factors: DimFactors


def variant(annotated: AnnotatedGraph, larger: AnnotatedGraph, storage: Mapping[str, Layouts]) -> Variant:
    """What `larger`, the graph of the same model with more rows, says. Raises Baked where it is another computation."""
    graph, other = annotated.graph, larger.graph
    pairs = [
        (graph.values[mine.value], other.values[theirs.value])
        for mine, theirs in zip(graph.inputs, other.inputs, strict=True)
    ]
    grown = {mine.name: (mine.shape[0], theirs.shape[0]) for mine, theirs in pairs if mine.shape != theirs.shape}
    assert len(set(grown.values())) == 1, "the two captures differ in the rows of their inputs"
    rows, more = next(iter(grown.values()))
    _same_values(graph, other, rows, more)
    if len(graph.nodes) != len(other.nodes) or graph.updates != other.updates or graph.loss != other.loss:
        raise Baked("with another number of rows, forward makes other calls")
    for mine, theirs in zip(graph.nodes, other.nodes, strict=True):
        _same_node(mine, theirs, rows, more)
    for name, call in annotated.calls.items():
        _same_rule(call.rule, larger.calls[name].rule, call.node)
    for path, value in graph.outputs:
        shapes = zip(graph.values[value].shape, other.values[value].shape, strict=True)
        if any(here != there and here * more != there * rows for here, there in shapes):
            raise Baked(f"the output {path} does not grow in proportion to the number of rows")
    names = tuple(item.name for item in graph.inputs if item.value in grown)
    for item in graph.inputs:
        for layout in storage[item.value]:
            if isinstance(layout, Shard) and item.value in grown and (layout.blocks, layout.unit) != (1, 1):
                raise Baked(f"input {item.name} is cut inside its rows")
    return Variant(graph, other, rows, more, names, larger.calls, propagate(larger))


def _same_values(graph: Graph, other: Graph, rows: int, more: int) -> None:
    stored = {item.value: item.name for item in graph.parameters}
    if graph.parameters != other.parameters or list(graph.values) != list(other.values):
        raise Baked("with another number of rows, forward makes other calls")
    for name, mine in graph.values.items():
        theirs = other.values[name]
        alike = mine.dtype == theirs.dtype and mine.differentiable == theirs.differentiable
        alike = alike and len(mine.shape) == len(theirs.shape)
        if not alike or not all(_follows(a, b, rows, more) for a, b in zip(mine.shape, theirs.shape, strict=True)):
            raise Baked(f"{name} has shape {mine.shape} for {rows} rows and {theirs.shape} for {more}")
        if name in stored and mine.shape != theirs.shape:
            raise Baked(f"{stored[name]} has a row for each of the batch's")


def _follows(here: object, there: object, rows: int, more: int) -> bool:
    """Whether a number is the same for both batches, or in proportion to them or to their squares."""
    if not isinstance(here, int | float) or not isinstance(there, int | float) or type(here) is not type(there):
        return False
    return here == there or there * rows == here * more or there * rows**2 == here * more**2


def _same_node(mine: Node, theirs: Node, rows: int, more: int) -> None:
    place = f"{mine.source}: `{mine.code}`" if mine.source else mine.name
    if (mine.name, mine.target, mine.outputs) != (theirs.name, theirs.target, theirs.outputs):
        raise Baked(f"{place}: with another number of rows, forward makes other calls")

    def same(a: Argument, b: Argument) -> bool:
        if isinstance(a, tuple) and isinstance(b, tuple):
            return len(a) == len(b) and all(map(same, a, b))
        return a == b or (not isinstance(a, bool) and _follows(a, b, rows, more))

    if not same(mine.args, theirs.args) or not same(mine.kwargs, theirs.kwargs):
        raise Baked(f"{place}: a number in it changes with the number of rows, but not in proportion")


def _same_rule(mine: Rule, theirs: Rule, node: Node) -> None:
    names = [item.name for item in fields(Rule) if item.name != "extents"]
    alike = (
        all(getattr(mine, name) == getattr(theirs, name) for name in names)
        and mine.extents.keys() == theirs.extents.keys()
    )
    if not alike:
        raise Baked(f"{node.source}: `{node.code}`: it may be split otherwise with another number of rows")


def run_for(variant: Variant, item: AnnotatedCall, strategy: Strategy) -> tuple[AnnotatedCall, Strategy]:
    """The same call under the same strategy in the variant's graph."""
    other = variant.calls[item.node.name]
    rule, known = other.rule, of_letters(variant.factors, other)

    def choice_for(choice: Choice) -> Choice:
        if choice.mode != "split":
            return choice
        extents = item.rule.extents[choice.letter], rule.extents[choice.letter]
        blocks, unit = _reading(variant, extents, (choice.blocks, choice.unit), known.get(choice.letter, ()))
        return replace(choice, blocks=blocks, unit=unit)

    return replace(item, node=other.node, call=other.call, rule=rule), tuple(map(choice_for, strategy))


def conversion_for(variant: Variant, value: str, conversion: Conversion) -> Conversion:
    """The same conversion of a value of the variant's graph."""
    shapes = variant.base.values[value].shape, variant.graph.values[value].shape

    def layout_for(layout: Layout) -> Layout:
        if not isinstance(layout, Shard):
            return layout
        extents = shapes[0][layout.dim], shapes[1][layout.dim]
        known = variant.factors[value, layout.dim]
        blocks, unit = _reading(variant, extents, (layout.blocks, layout.unit), known)
        return Shard(layout.dim, blocks, unit)

    return replace(
        conversion, before=tuple(map(layout_for, conversion.before)), after=tuple(map(layout_for, conversion.after))
    )


def _reading(variant: Variant, extents: tuple[int, int], reading: DimFactor, known: Iterable[DimFactor]) -> DimFactor:
    """How the variant reads a dim as `blocks x m x unit`: the batch is a factor of one of the three."""
    if extents[0] == extents[1]:
        return reading
    (blocks, unit), rows, other = reading, variant.rows, variant.other
    wishes = [((blocks, unit), extents[0] // (blocks * unit))]
    wishes += [((blocks // rows * other, unit), blocks), ((blocks, unit // rows * other), unit)]
    fitting = [wish for wish, factor in wishes if factor % rows == 0]
    if len(fitting) > 1:
        fitting = [candidate for candidate in fitting if candidate in known]
    if len(fitting) != 1:
        raise Baked(f"a dim of extent {extents[0]} is cut inside the batch")
    return fitting[0]


def merged(text: str, other: str, rows: int, more: int, place: str = "a conversion") -> str:
    """The text for any number of rows, of those for `rows` and for `more`. Raises Baked.

    >>> merged("x.sum() / 512", "x.sum() / 704", 8, 11), merged("f(x, DATA.part(8), 3)", "f(x, DATA.part(11), 3)", 8, 11)
    ('x.sum() / (p.batch * 64)', 'f(x, DATA.part(p.batch), 3)')
    """
    if text == other:
        return text
    mine, theirs = _NUMBER.split(text), _NUMBER.split(other)
    if mine[::2] != theirs[::2]:
        raise Baked(f"{place}: it is computed otherwise with another number of rows")
    for i in range(1, len(mine), 2):
        if mine[i] != theirs[i]:
            product = _product(float(mine[i]), float(theirs[i]), rows, more)
            if not product:
                raise Baked(f"{place}: {mine[i]} follows the number of rows, but not in proportion")
            after = mine[i + 1].lstrip().startswith("**")
            tight = after or mine[i - 1].rstrip().endswith(("/", "%", "**"))
            mine[i] = f"({product})" if tight and " " in product else product
    return "".join(mine)


def _product(here: float, there: float, rows: int, more: int) -> str:
    """A number that is `here` for so many `rows` and `there` for `more`: a multiple of them or of their square, or ""."""
    for power in (1, 2):
        factor = here / rows**power
        if factor == int(factor) and there == factor * more**power:
            return " * ".join(["p.batch"] * power + [str(int(factor))] * (factor != 1))
    return ""
