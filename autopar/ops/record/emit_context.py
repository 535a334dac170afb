"""What an emitter is given: the call, its rule, how this plan splits its letters, and the arguments as text.

An emitter is a function ``emit(ctx: EmitContext) -> str``, which returns the Python expression of the rank-local call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autopar.ir.graph import Ref
from autopar.ir.layout import Shard
from autopar.ops.record.printing import Expr, atom, invoke, tuple_text
from autopar.ops.record.rule import Call, Rule


@dataclass(frozen=True, slots=True)
class Local:
    """How a plan splits the letters of a call, and the expressions of their local extents.

    splits    letter -> the names of the axes that split it, outermost first (``("DATA",)``); whole letters are absent
    extent    letter -> the Python expression of its local extent, a number or a product (``"MODEL.part(6) * 64"``)
    readings  letter -> (axis, blocks, unit) of each of its splits, outermost first: how its extent is read to be cut
    batch     how the rows of the batch lie in a random tensor of a micro-batch
    """

    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extent: Mapping[str, str] = field(default_factory=dict)
    readings: Mapping[str, tuple[tuple[str, int, int], ...]] = field(default_factory=dict)
    batch: Shard | None = None


@dataclass(frozen=True, slots=True)
class EmitContext:
    """One rank-local call that is to be printed.

    `args` and `kwargs` are the node's arguments with every tensor already replaced by an `Expr`, which prints as its
    variable. An axis is printed by its name in the program, ``MODEL``.
    """

    call: Call
    rule: Rule
    local: Local
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def pick(self, position: int, name: str, default: object = None) -> Any:  # noqa: ANN401 (any argument of a call)
        """The argument at `position` or called `name`; a None counts as absent."""
        value = self.args[position] if position < len(self.args) else self.kwargs.get(name)
        return default if value is None else value

    def options(self, start: int, table: Iterable[tuple[str, object]]) -> list[tuple[str, object, object]]:
        """Options (name, value, default) for the arguments that follow position `start` in the order of `table`."""
        return [(name, self.pick(start + i, name, default), default) for i, (name, default) in enumerate(table)]

    def axes(self, *letters: str) -> tuple[str, ...]:
        """The axes that split any of these letters, each once."""
        return tuple(dict.fromkeys(axis for letter in letters for axis in self.local.splits.get(letter, ())))

    def over(self) -> Expr | None:
        """``(DATA, MODEL)``: the axes that split what the distributed form sums over; None where there are none."""
        axes = self.axes(*self.rule.whole)
        return tuple_text(axes) if axes else None

    def axis(self, letter: str) -> str:
        """The axis that splits a letter, or nothing; the letter is one that no two axes may split."""
        axes = self.axes(letter)
        assert len(axes) < 2, f"the letter {letter} is split over {axes}"
        return axes[0] if axes else ""

    def extent(self, letter: str) -> str:
        """The expression of a letter's local extent: ``MODEL.part(64)``, or the number where it is whole."""
        return self.local.extent.get(letter, str(self.rule.extents[letter]))

    def size(self, letters: Iterable[str]) -> str:
        """The expression of the local extent of a dim with these letters: numbers multiplied out, written last."""
        factors = [self.extent(letter) for letter in letters]
        number = math.prod(int(factor) for factor in factors if factor.isdigit())
        parts = [factor for factor in factors if not factor.isdigit()]
        return " * ".join([*parts, str(number)] if number != 1 or not parts else parts)

    def sizes(self, dims: Iterable[Iterable[str]]) -> list[str]:
        """The local shape of a tensor with these dims."""
        return [self.size(letters) for letters in dims]

    def shape(self) -> Expr:
        """``(DATA.part(8), 1)``: the local shape of the result."""
        return tuple_text(self.sizes(self.rule.results[0]))

    def place(self, letter: str) -> Expr | None:
        """``(MODEL, 50)``: the axis that splits a letter and its whole extent; None where it is whole."""
        axis = self.axis(letter)
        return Expr(f"({axis}, {self.rule.extents[letter]})") if axis else None

    def start(self, letter: str) -> str:
        """``MODEL.start(50)``: the first row of this rank's part; empty where the letter is whole."""
        axis = self.axis(letter)
        return f"{axis}.start({self.rule.extents[letter]})" if axis else ""

    def positions(self, letters: Sequence[str]) -> Expr | None:
        """``(MODEL, 1024)``: the axis and the whole extent of a dim with these letters; None where none is split.

        It is what `autopar.runtime.grid.shard_positions` reads.
        """
        whole = math.prod(self.rule.extents[letter] for letter in letters)
        cuts = []
        for at, letter in enumerate(letters):
            before = math.prod(self.rule.extents[other] for other in letters[:at])
            after = math.prod(self.rule.extents[other] for other in letters[at + 1 :])
            for axis, blocks, unit in self.local.readings.get(letter, ()):
                reading = f", {before * blocks}, {after * unit}" if (before * blocks, after * unit) != (1, 1) else ""
                cuts.append(f"({axis}, {whole}{reading})")
        return Expr(cuts[0] if len(cuts) == 1 else f"({', '.join(cuts)})") if cuts else None

    def all_positions(self, dims: Iterable[Sequence[str]]) -> Expr | None:
        """``{0: (DATA, 8), 2: (MODEL, 1024)}``: the positions of all split dims; None where none is split.

        In a micro-batch ``{"batch": 0, 2: (MODEL, 1024)}`` says where the rows of the batch are.
        """
        cuts: dict[int | str, object] = {dim: self.positions(letters) for dim, letters in enumerate(dims)}
        if (rows := self.local.batch) is not None:
            reading = (
                f"({rows.dim}, {rows.blocks}, {rows.unit})" if (rows.blocks, rows.unit) != (1, 1) else f"{rows.dim}"
            )
            cuts = {'"batch"': Expr(reading), **cuts}
        return by_dim(cuts)

    def windows(self) -> Expr | None:
        """``{2: (DATA, 64)}``: the split windowed dims of operand 0 with axis and whole extent; None if there are none."""
        shape, windows = self.call.operands[0].shape, self.rule.windows
        dims = [(dim, letters[0]) for dim, letters in enumerate(self.rule.operands[0]) if letters]
        axes = {dim: self.axis(letter) for dim, letter in dims if letter in windows}
        return by_dim({dim: f"({axis}, {shape[dim]})" for dim, axis in axes.items() if axis})


Emit = Callable[[EmitContext], str]


def by_dim(texts: Mapping[Any, object]) -> Expr | None:
    """``{0: (DATA, 8)}``: a dict of dims of what is not empty; None where all is."""
    entries = [f"{dim}: {text}" for dim, text in texts.items() if text]
    return Expr(f"{{{', '.join(entries)}}}") if entries else None


def emit_context(call: Call, rule: Rule, local: Local, operands: Iterable[Expr]) -> EmitContext:
    """The context of a call whose tensors, in the order of ``call.node.inputs``, are these expressions."""
    names = iter(operands)

    def printed(argument: Any) -> Any:  # noqa: ANN401 (any argument of a node)
        if isinstance(argument, Ref):
            return next(names)
        return tuple(map(printed, argument)) if isinstance(argument, tuple) else argument

    args = tuple(map(printed, call.node.args))
    return EmitContext(call, rule, local, args, {name: printed(value) for name, value in call.node.kwargs})


def function(name: str, operands: int, *table: tuple[str, object]) -> Emit:
    """An emitter of ``name(operands..., option=value)``; `table` lists the options and torch's defaults."""

    def emit(ctx: EmitContext) -> str:
        if _unsaid(ctx, operands, table):
            return overload(ctx)
        return invoke(name, ctx.args[:operands], ctx.options(operands, table))

    return emit


def _unsaid(ctx: EmitContext, start: int, table: Sequence[tuple[str, object]]) -> bool:
    """Whether there are arguments of which the table knows nothing."""
    more = any(value is not None for value in ctx.args[start + len(table) :])
    return more or any(name not in dict(table) for name, value in ctx.kwargs.items() if value is not None)


def overload(ctx: EmitContext) -> str:
    """``torch.ops.aten.x.overload(...)``: the call itself, where the function that is otherwise printed cannot say it."""
    named = [(name, value, None) for name, value in ctx.kwargs.items()]
    return invoke(f"torch.ops.{ctx.call.node.target}", ctx.args, named)


def method(name: str, *table: tuple[str, object], operands: int = 1) -> Emit:
    """An emitter of ``x.name(option=value)``; with more `operands` than x, of ``x.name(y, option=value)``."""

    def emit(ctx: EmitContext) -> str:
        if _unsaid(ctx, operands, table):
            return overload(ctx)
        return invoke(f"{atom(ctx.args[0])}.{name}", ctx.args[1:operands], ctx.options(operands, table))

    return emit
