"""The letter notation: what an operator's dims mean, and the layouts that follow when a letter is split over an axis.

A rule is written as one line, operands before the arrow and results after it:

    linear        b* k, n k, n? -> b* n
    conv2d        n c h~ w~, k c [r] [s], k? -> n k h~ w~
    layer_norm    b* [n], n?, n? -> b* n

    k         a letter: one dim of this extent
    b*        any number of dims (letters b0, b1, ...), aligned from the right; at most one such letter per tensor
    (h d)     one dim that is the row-major product of several letters
    [v]       a frozen letter: the dim must be whole. Frozen anywhere means frozen everywhere
    h~        a windowed letter: an operand's extent differs from the result's, and a rank needs its neighbours' rows
    k?        the whole operand is optional (None in the call)
    1         a dim of extent one

An operand dim of extent 1 whose letter has a larger extent elsewhere is broadcast and does not carry the letter.

Splitting letter `l` over an axis shards every operand and result that carries it; an operand that lacks it is Copied
(Replicate where no gradient flows); a result that lacks it is Partial. This is all of batch, model and domain
parallelism.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autopar.ir.graph import Node, Value
from autopar.ir.layout import Copied, Layout, Partial, Replicate, Shard, muddles

Dims = tuple[
    tuple[str, ...], ...
]  # per dim of a tensor the letters whose product it is; () for a dim that carries none


@dataclass(frozen=True, slots=True)
class Call:
    """A node together with what its tensors are: everything a rule may look at."""

    node: Node
    operands: tuple[Value, ...]  # one per entry of node.inputs
    results: tuple[Value, ...]  # one per output; an unused result has an empty name

    def arg(self, position: int, name: str, default: object = None) -> object:
        """The literal given at `position` or by keyword `name`, or the default."""
        if position < len(self.node.args):
            return self.node.args[position]
        return dict(self.node.kwargs).get(name, default)

    def dim(self, position: int, default: object = 0, name: str = "dim") -> int:
        """The argument at `position` or by keyword `name` that is a dim of operand 0, counted from the front."""
        return normal_dim(self.arg(position, name, default), len(self.operands[0].shape))

    @property
    def function(self) -> str:
        """What the target is called without its namespace and overload: ``"sum"`` of ``"aten.sum.default"``."""
        return self.node.target.split(".")[1]


def normal_dim(dim: object, ndim: int) -> int:
    """A dim counted from the front."""
    assert isinstance(dim, int)
    return dim % ndim if ndim else 0


def normal_dims(dims: object, ndim: int) -> tuple[int, ...]:
    """One dim or several, counted from the front; None is all."""
    if dims is None:
        return tuple(range(ndim))
    return tuple(normal_dim(dim, ndim) for dim in (dims if isinstance(dims, tuple) else (dims,)))


@dataclass(frozen=True, slots=True)
class Window:
    """How rows of a result depend on rows of an operand along one dim.

    Plain: result row j reads operand rows ``floor(j*stride - padding) + dilation*i`` for i in range(kernel). Stride and
    padding are fractions where rows are interpolated.
    Transposed: operand row j adds to those rows of the result.
    """

    kernel: int
    stride: float = 1
    padding: float = 0
    dilation: int = 1
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """The letters of one call, with extents. `operands` and `results` line up with `Call.operands` and `Call.results`.

    whole     results that come out whole although they lack a split letter, because the distributed form sums inside
              (the statistics of a batch norm): letter -> indices of such results
    linear    sets of operands in which the call is jointly linear: Partial in all of them and Copied in the others
              gives Partial results
    addends   operands added once to a sum (a bias): kept on one rank of the axis where a summed letter is split
    filled    letters of which every rank must hold at least one row, because torch refuses an empty part (channels)
    joined    backward need not be linear in the gradient: addends of a gradient may not pass through it one by one
    refused   the record does not cover the call: it runs whole, and `autopar.ops.record.fallback` prints it
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    extents: Mapping[str, int]
    frozen: frozenset[str] = frozenset()
    windows: Mapping[str, Window] = field(default_factory=dict)
    whole: Mapping[str, frozenset[int]] = field(default_factory=dict)
    linear: tuple[frozenset[int], ...] = ()
    addends: frozenset[int] = frozenset()
    filled: frozenset[str] = frozenset()
    joined: bool = False
    refused: bool = False

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters that may be split, in order of appearance; none that is in a dim without elements."""
        every = [dim for dims in (*self.operands, *self.results) for dim in dims]
        seen = dict.fromkeys(letter for dim in every for letter in dim)
        empty = {letter for dim in every if any(self.extents[name] == 0 for name in dim) for letter in dim}
        return tuple(letter for letter in seen if letter not in self.frozen | empty and self.extents[letter] > 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one call does on one grid axis: the letter split (or none) and the layouts that follow.

    mode: ``"split"``; ``"replicate"`` and ``"copied"`` (every rank computes the whole, the two meanings of whole);
    ``"linear"`` (Partial passes through).
    """

    mode: str
    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    letter: str = ""
    blocks: int = 1
    unit: int = 1

    def __str__(self) -> str:
        inner = f"({self.blocks}x_x{self.unit})" if (self.blocks, self.unit) != (1, 1) else ""
        return f"{self.letter}{inner}" if self.mode == "split" else self.mode


def broadcast(call: Call) -> Rule:
    """The rule of an elementwise call: right-aligned dims, one letter each, `d0 d1 ...` over the result's dims."""
    shape = next(value.shape for value in call.results if value.name)
    names = tuple(f"d{i}" for i in range(len(shape)))
    extents = dict(zip(names, shape, strict=True))
    operands = []
    for value in call.operands:
        skip = len(shape) - len(value.shape)
        operands.append(tuple((names[skip + i],) if n == shape[skip + i] else () for i, n in enumerate(value.shape)))
    whole = tuple((name,) for name in names)
    return Rule(tuple(operands), tuple(whole if value.name else () for value in call.results), extents)


def letters(notation: str, call: Call, positions: Iterable[int] | None = None) -> Rule:
    """The rule that `notation` gives for this call.

    Operand i of the notation is the call's argument at ``positions[i]`` (default: i). One that is None or absent must
    be marked optional. Raises ValueError where the notation does not fit the call's shapes.
    """
    left, right = (side.split(",") for side in notation.split("->"))
    places = tuple(positions) if positions is not None else tuple(range(len(left)))
    by_position = _tensors_by_position(call)
    terms: list[tuple[str, Value]] = []
    for text, place in zip(left, places, strict=True):
        if place in by_position:
            terms.append((text.replace("?", ""), by_position[place]))
        elif "?" not in text:
            raise ValueError(f"{call.node.target}: operand {text.strip()!r} of {notation!r} is not given")
    if len(terms) != len(call.operands):
        raise ValueError(f"{call.node.target}: {notation!r} describes {len(terms)} of {len(call.operands)} tensors")
    terms += zip(right, call.results, strict=True)
    terms = [(text if value.name else "", value) for text, value in terms]
    frozen = frozenset(re.findall(r"\[\s*([a-z]\w*)", notation))
    spans = [_span(text, value) for text, value in terms]
    tensors = [_dims(text, value, max(spans)) for text, value in terms]
    frozen |= {letter for dims in tensors for dim in dims for letter in dim if letter.rstrip("0123456789") in frozen}
    windowed = frozenset(re.findall(r"([a-z]\w*)~", notation))
    extents = _extents(tensors, [value for _, value in terms], windowed)
    carried = [_drop_broadcast(dims, value, extents, windowed) for dims, (_, value) in zip(tensors, terms, strict=True)]
    count = len(call.operands)
    return Rule(tuple(carried[:count]), tuple(carried[count:]), extents, frozen)


def _tensors_by_position(call: Call) -> dict[int, Value]:
    """The call's tensor arguments by their place in the signature; keyword tensors follow the positional ones."""
    from autopar.ir.graph import Ref

    values = iter(call.operands)
    arguments = [*call.node.args, *(value for _, value in call.node.kwargs)]
    return {i: next(values) for i, argument in enumerate(arguments) if isinstance(argument, Ref)}


_TOKEN = re.compile(r"\([^)]*\)|\[[^]]*\]|[^\s()\[\]]+")


def _span(text: str, value: Value) -> int:
    """How many dims a tensor's starred letter stands for."""
    return len(value.shape) - len(_TOKEN.findall(text)) + 1 if "*" in text and value.name else 0


def _dims(text: str, value: Value, most: int) -> Dims:
    """The letters of each dim as written, a starred letter as the last ones of the `most` that it stands for anywhere."""
    tokens = _TOKEN.findall(text)
    dims: list[tuple[str, ...]] = []
    if not value.name:
        return ()  # nobody reads this result: its dims do not matter
    for token in tokens:
        names = tuple(name.rstrip("~") for name in re.sub(r"[()\[\]]", " ", token).split())
        if names and names[0].endswith("*"):
            star = names[0][:-1]
            dims += [(f"{star}{i}",) for i in range(most - _span(text, value), most)]
        else:
            dims.append(() if names == ("1",) else names)
    if len(dims) != len(value.shape):
        raise ValueError(f"{text.strip()!r} does not describe {value.name} of shape {value.shape}")
    return tuple(dims)


def _extents(tensors: list[Dims], values: list[Value], windowed: frozenset[str]) -> dict[str, int]:
    """The extent of every letter: the largest seen (a smaller one is a broadcast 1) or 0; of a windowed one the result's."""
    extents: dict[str, int] = {}
    pairs = [
        (names, n, value.name)
        for dims, value in zip(tensors, values, strict=True)
        if value.name
        for names, n in zip(dims, value.shape, strict=True)
    ]
    for names, n, _ in pairs:
        if len(names) == 1:
            known = extents.get(names[0], 1)
            empty = n == 0 or known == 0
            extents[names[0]] = n if names[0] in windowed else 0 if empty else max(n, known)
    for names, n, _ in (
        *pairs,
        *pairs,
    ):  # twice: a factor may be found only after a later tensor has given the other one
        unknown = [name for name in names if name not in extents]
        if len(names) > 1 and len(unknown) == 1:
            known = math.prod(extents[name] for name in names if name in extents)
            extents[unknown[0]] = n // known if known else 1
    for names, n, value in pairs:
        fits = n == math.prod(extents.get(name, 0) for name in names)
        broadcast_one = n == 1 and len(names) == 1
        if not fits and not broadcast_one and not windowed & set(names):
            raise ValueError(f"the dim {names} of {value} does not have extent {n}")
    return extents


def _drop_broadcast(dims: Dims, value: Value, extents: Mapping[str, int], windowed: frozenset[str]) -> Dims:
    """The dims without the letters of those of extent 1 that stand for more; one row of a windowed letter is one row."""
    if not value.name:
        return ()
    return tuple(
        () if n == 1 and len(names) == 1 and extents[names[0]] != 1 and names[0] not in windowed else names
        for names, n in zip(dims, value.shape, strict=True)
    )


def shard_of(dims: Dims, extents: Mapping[str, int], letter: str, blocks: int = 1, unit: int = 1) -> Shard | None:
    """The layout of a tensor with these dims when `letter` is split, or None where the tensor lacks the letter."""
    for dim, names in enumerate(dims):
        if letter in names:
            at = names.index(letter)
            before = math.prod(extents[name] for name in names[:at])
            after = math.prod(extents[name] for name in names[at + 1 :])
            return Shard(dim, before * blocks, after * unit)
    return None


def split_choice(rule: Rule, call: Call, letter: str, blocks: int = 1, unit: int = 1) -> Choice | None:
    """The layouts when `letter` is split, its extent read as ``blocks x m x unit``; None where that is not legal."""
    if letter in rule.windows and (blocks, unit) != (1, 1):
        return None
    results: list[Layout] = []
    summed = False
    for i, (dims, value) in enumerate(zip(rule.results, call.results, strict=True)):
        shard = shard_of(dims, rule.extents, letter, blocks, unit)
        partial = shard is None and i not in rule.whole.get(letter, ()) and bool(value.name)
        if partial and not floating(value):
            return None  # integers may be a maximum, booleans an "any": their parts do not add up
        summed = summed or partial
        results.append(shard or (Partial() if partial else Replicate()))
    operands: list[Layout] = []
    for i, (dims, value) in enumerate(zip(rule.operands, call.operands, strict=True)):
        shard = shard_of(dims, rule.extents, letter, blocks, unit)
        whole: Layout = Copied() if value.differentiable else Replicate()
        operands.append(shard or (Partial() if summed and i in rule.addends else whole))
    return Choice("split", tuple(operands), tuple(results), letter, blocks, unit)


def choices(rule: Rule, call: Call, factors: Mapping[str, Iterable[tuple[int, int]]]) -> tuple[Choice, ...]:
    """Everything the call may do on one axis. `factors` gives per letter the (blocks, unit) readings to consider."""
    listed = [whole_choice(call, "replicate")]
    flows = [value.differentiable for value in call.results if value.name]
    if any(flows) and not rule.joined:
        listed.append(whole_choice(call, "copied"))
    if flows and all(flows):
        listed += [linear_choice(call, group) for group in rule.linear]
    for letter in rule.letters:
        for blocks, unit in sorted(set(factors.get(letter, [(1, 1)]))):
            choice = split_choice(rule, call, letter, blocks, unit)
            if choice is not None:
                listed.append(choice)
    return tuple(choice for choice in dict.fromkeys(listed) if not muddled(call, choice.operands, choice.results))


def muddled_letters(rule: Rule, call: Call) -> tuple[str, ...]:
    """The letters that `choices` leaves out since splitting them would take one meaning of whole for the other."""
    splits = {letter: split_choice(rule, call, letter) for letter in rule.letters}
    return tuple(name for name, choice in splits.items() if choice and muddled(call, choice.operands, choice.results))


def muddled(call: Call, operands: Sequence[Layout], results: Sequence[Layout]) -> bool:
    """Whether these layouts of one axis take one meaning of whole for the other where gradients flow."""
    read = [layout for layout, value in zip(operands, call.operands, strict=True) if value.differentiable]
    out = [layout for layout, value in zip(results, call.results, strict=True) if value.name and value.differentiable]
    return muddles(read, out)


def whole_choice(call: Call, mode: str) -> Choice:
    """Every rank computes the whole call: the fallback that is always legal, as ``"replicate"`` or ``"copied"``.

    Tensors without gradient know no difference between the two meanings of whole, and are Replicate in both.
    """
    layout: Layout = Copied() if mode == "copied" else Replicate()

    def of(values: tuple[Value, ...]) -> tuple[Layout, ...]:
        return tuple(layout if value.differentiable else Replicate() for value in values)

    return Choice(mode, of(call.operands), of(call.results))


def linear_choice(call: Call, group: frozenset[int]) -> Choice:
    """Partial sums pass through a call that is linear in the operands of `group`."""
    operands: list[Layout] = []
    for i, value in enumerate(call.operands):
        rest: Layout = Copied() if value.differentiable else Replicate()
        operands.append(Partial() if i in group else rest)
    return Choice("linear", tuple(operands), tuple(Partial() for _ in call.results))


def fills(rule: Rule, strategy: Sequence[Choice], sizes: Sequence[int]) -> bool:
    """Whether balanced cuts leave every rank of axes of these sizes a row of each letter that must be filled."""
    left = {letter: rule.extents[letter] for letter in rule.filled if letter in rule.extents}
    for choice, size in zip(strategy, sizes, strict=True):
        if choice.mode == "split" and choice.letter in left:
            rows = rule.extents[choice.letter] // (choice.blocks * choice.unit)
            left[choice.letter] = min(left[choice.letter], rows) // size
    split = {choice.letter for choice in strategy if choice.mode == "split"}
    return all(n > 0 for letter, n in left.items() if letter in split)


def floating(value: Value) -> bool:
    """Whether the value's elements add up: real or complex numbers."""
    return value.dtype.startswith(("float", "bfloat", "complex"))


def with_linear(rule: Rule, *groups: Iterable[int]) -> Rule:
    """The same rule with these jointly linear sets of operands."""
    return replace(rule, linear=tuple(frozenset(group) for group in groups))
