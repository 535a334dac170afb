"""Random models, made of the samples of all records: what no single call shows is how calls read one another's values.

    drawn_model(seed)     a model of 5 to 15 calls, as source text, its parameters and its inputs

A call is a sample of a record, drawn, now and then with one of its arguments varied; which records, `random_calls` says. Its
operands are values that were computed before, brought to the sample's shape by views, reductions and broadcasts, or new parameters
and inputs; indices and masks are often the places of what the model sorts, and what it compares. The calls run as they are drawn:
one whose numbers are not finite, or too large to compare, is left out again. A new record is drawn as soon as it has samples.

All of it is float64, so that nothing has to be widened: where a call asks for no dtype, torch's default is `doubled`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from autopar.ir.graph import Dtype
from autopar.ops.record.op import Op, Sample, T
from autopar.proof.random_calls import Entry, TextEntry, dealt, is_aten
from autopar.proof.random_reshapes import steps
from autopar.proof.reference import REFUSED, filled, tensors
from autopar.proof.variations import arguments, varied

LARGEST, ELEMENTS = 1e3, 4000  # of a value's numbers, and how many there are
NEW, NEAR, COMPUTED = 0.25, 0.7, 0.5  # how often an operand is new, of its shape already, made of other values
VARIED, OPTIONS = 0.5, 0.6  # how often a sample is varied, and how often then its options are, not its shapes
TRIES, OFTEN = 3, 0.6  # of an entry; the share of the calls that real models read most
APART = 1e-6  # of numbers that are sorted or compared
_REAL = ("normal", "constant", "unit", "positive")
_WHOLE = ("index", "labels", "sorted", "distinct")
_NARROW = ("float32", "float16", "bfloat16")
_NAMES = re.compile(r"(?:self\.)?[vpi]\d+(?:\[\d+\])?")


@dataclass(frozen=True, slots=True)
class Model:
    """A drawn model: its forward as text, its parameters and inputs by name, in float64."""

    text: str
    parameters: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    records: tuple[str, ...]  # names of what was drawn

    def module(self) -> nn.Module:
        """The model as people bring it."""
        names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        exec(compile(self.text, "model.py", "exec"), names)
        model: nn.Module = type("Drawn", (nn.Module,), {"forward": names["forward"]})()
        for name, value in self.parameters.items():
            model.register_parameter(name, nn.Parameter(value.detach().clone()))
        return model


@contextmanager
def doubled() -> Iterator[None]:
    """Here torch makes float64 of numbers for which nobody asks for a dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def drawn_model(seed: int, calls: tuple[int, int] = (5, 15), batched: bool = False) -> Model:
    """The model of this seed. Its first input has one row, so that capture looks for no batch, unless it is `batched`."""
    draw = _Draw(random.Random(seed))
    count = draw.random.randint(*calls)
    often = round(OFTEN * calls[1])
    with doubled():
        if not batched:
            draw.inputs["i0"] = torch.ones(1)
        for entry in dealt(seed, often, calls[1] - often):
            for _ in range(TRIES):
                if len(draw.records) < count and draw.call(entry):
                    break
        draw.loss("" if batched else "0.1 * i0.sum()")
    return draw.model()


class _Draw:
    """A model while it is drawn: its lines, and the values that they have computed so far."""

    def __init__(self, chance: random.Random) -> None:
        self.random = chance
        self.generator = torch.Generator().manual_seed(chance.randrange(2**31))
        self.lines: list[str] = []
        self.values: dict[str, Tensor] = {}  # by the expression that reads them
        self.parameters: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.records: list[str] = []
        self.read: set[str] = set()
        self.count = 0

    def model(self) -> Model:
        body = "\n".join(f"    {line}" for line in self.lines)
        text = f"def forward(self, {', '.join(self.inputs)}):\n{body}\n"
        return Model(text, dict(self.parameters), dict(self.inputs), tuple(self.records))

    def call(self, entry: Entry) -> bool:
        """One more call, or nothing where torch refuses it or its numbers are of no use."""
        before = self._state()
        try:
            text, known = self._call_of(entry), set(self.values)
            self.line(text)
            for result in self.values.keys() - known:
                self._backward(self.values[result])
            self.records.append(entry.name)
            return True
        except (*REFUSED, NotImplementedError, _Unusable):
            self._restore(before)
            return False

    def _call_of(self, entry: Entry) -> str:
        if isinstance(entry, TextEntry):
            return entry.text.format(*map(self._operand, entry.operands))
        sample = self._sample(entry)
        args = [self._argument(value) for value in sample.args]
        named = [f"{name}={self._argument(value)}" for name, value in sample.kwargs]
        return f"torch.ops.{sample.target}({', '.join([*args, *named])})"

    def _sample(self, op: Op) -> Sample:
        """A sample of the record, or a variation of one."""
        base = self.random.choice(op.samples)
        base = replace(base, target=base.target or self.random.choice(op.targets))
        if not is_aten(base.target):
            raise _Unusable
        if self.random.random() < VARIED:
            others = list(varied(op, base))
            alike = [other for other in others if [*tensors(other.args)] == [*tensors(base.args)]]
            chosen = alike if alike and self.random.random() < OPTIONS else others
            base = self.random.choice(chosen) if chosen else base
        named = {arg.name: value for arg, value in zip(arguments(base.target), base.args, strict=False)}
        if named.get("dropout_p") or named.get("num_classes") == -1:
            raise _Unusable  # numbers that the model itself draws otherwise; a shape that follows from numbers
        return base

    def _state(self) -> tuple[Any, ...]:
        return (
            list(self.lines), dict(self.values), dict(self.parameters), dict(self.inputs), set(self.read), self.count
        )  # fmt: skip

    def _restore(self, state: tuple[Any, ...]) -> None:
        self.lines, self.values, self.parameters, self.inputs, self.read, self.count = state

    def line(self, text: str) -> str:
        """Run one more line; the name of the first tensor that it makes, or nothing where it has none to go on with."""
        name = self._name("v")
        value = eval(text, {"torch": torch, "F": torch.nn.functional, **self._names()})
        results = {name: value} if isinstance(value, Tensor) else {f"{name}[{i}]": item for i, item in enumerate(value)}
        usable = {text: item for text, item in results.items() if isinstance(item, Tensor) and _fits(item)}
        if not usable or any(item.is_floating_point() and not _fits(item) for item in results.values()):
            raise _Unusable
        self.lines.append(f"{name} = {text}")
        self.read |= set(_NAMES.findall(text)) & self.values.keys()
        self.values |= usable
        return next(iter(usable))

    def _backward(self, value: Tensor) -> None:
        """See that gradients of the value are numbers of use too."""
        if value.requires_grad:
            size = value.abs() if value.is_complex() else value
            leaves = list(self.parameters.values())
            for gradient in torch.autograd.grad(size.sum(), leaves, allow_unused=True, retain_graph=True):
                if gradient is not None and not _fits(gradient):
                    raise _Unusable

    def _names(self) -> dict[str, Any]:
        lists: dict[str, dict[int, Tensor]] = {}
        for text, value in self.values.items():
            if "[" in text:
                base, _, at = text.rstrip("]").partition("[")
                lists.setdefault(base, {})[int(at)] = value
        plain = {text: value for text, value in self.values.items() if "[" not in text and "." not in text}
        return {**lists, **plain, "self": SimpleNamespace(**self.parameters)}

    def _name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def _argument(self, value: object) -> str:
        if isinstance(value, T):
            return self._operand(value)
        if isinstance(value, Dtype):
            return "torch.float64" if value.name.startswith("float") else f"torch.{value.name}"
        if isinstance(value, tuple):
            return f"[{', '.join(map(self._argument, value))}]"
        return f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)

    def _operand(self, tensor: T) -> str:
        """A value that was computed before, in the sample's shape, or a new one."""
        kind, *rest = (tensor.kind or "normal").split()
        if kind in _NARROW:
            raise _Unusable
        text = ""
        if kind == "complex":
            return self.line(f"torch.complex({self._operand(T(tensor.shape))}, {self._operand(T(tensor.shape))})")
        if kind in _REAL and self.random.random() >= NEW:
            text = self._real(kind, tensor.shape)
        elif kind not in _REAL and self.random.random() < COMPUTED:
            text = self._computed(kind, tensor.shape, *map(int, rest))
        return text or self._new(tensor)

    def _real(self, kind: str, shape: tuple[int, ...]) -> str:
        """A known value brought to a shape, and into the bounds of a kind; nothing where none is known."""
        known = [text for text, value in self.values.items() if value.numel()]
        if not known:
            return ""
        near = [text for text in known if self.values[text].shape == shape]
        chosen = self.random.choice(near if near and self.random.random() < NEAR else known)
        shaped = self._shaped(self._floating(chosen), shape)
        if kind in ("unit", "positive"):
            return self.line(
                f"torch.sigmoid({shaped}) * 0.8 + 0.1" if kind == "unit" else f"torch.sigmoid({shaped}) + 0.5"
            )
        return self.line(f"torch.tanh({shaped})") if float(self.values[shaped].detach().abs().max()) > 5 else shaped

    def _computed(self, kind: str, shape: tuple[int, ...], number: int = 0) -> str:
        """Numbers without a gradient that the model makes: places, what it compares, probabilities. Nothing where it cannot."""
        if kind == "probabilities":
            base = self._real("normal", shape)
            return base and self.line(f"torch.softmax({base}, {number})")
        if kind == "distinct":
            base = self._apart(self._real("normal", (*shape[:-1], number)))
            return base and self.line(f"{base}.argsort(-1).narrow(-1, 0, {shape[-1]})")
        known = [text for text, x in self.values.items() if x.is_floating_point() and x.dim() and x.numel()]
        source = self._apart(self.random.choice(known)) if known else ""
        if kind == "bool" and source:
            middle = float(self.values[source].detach().median()) + 2 * APART
            return self._shaped(self.line(f"{source} > {middle}"), shape)
        return self._places(source, kind, shape, number) if kind in _WHOLE and source else ""

    def _places(self, text: str, kind: str, shape: tuple[int, ...], below: int) -> str:
        """Places in a value, as whole numbers below this one."""
        dim = self.random.randrange(-self.values[text].dim(), self.values[text].dim())
        some = self.random.randint(1, self.values[text].shape[dim])
        form = self.random.choice(("argsort({dim})", "topk({some}, {dim})[1]", "argmax({dim}, True)", "sort({dim})[1]"))
        places = self._shaped(self.line(f"{text}.{form.format(dim=dim, some=some)}"), shape)
        places = self.line(f"{places} % {below}")
        if kind == "labels":
            return self.line(f"torch.where({places} == 0, -100, {places})")
        return self.line(f"{places}.sort(-1)[0]") if kind == "sorted" else places

    def _apart(self, text: str) -> str:
        """The value, if no two of its numbers are so near that roundings could turn them round; else nothing."""
        if not text:
            return ""
        order = self.values[text].detach().flatten().sort().values
        return text if len(order) > 1 and float(order.diff().min()) > 4 * APART else ""

    def _new(self, tensor: T) -> str:
        value = filled(tensor, self.generator).detach()
        if tensor.kind.split()[:1] in (["normal"], ["unit"]) and self.random.random() < 0.7:
            name = self._name("p")
            self.parameters[name] = value.requires_grad_()
            self.values[f"self.{name}"] = value
            return f"self.{name}"
        name = self._name("i")
        self.inputs[name] = value
        self.values[name] = value
        return name

    def _floating(self, text: str) -> str:
        value = self.values[text]
        if value.is_complex():
            return self.line(f"torch.view_as_real({text}.resolve_conj())")
        return text if value.is_floating_point() else self.line(f"{text}.double()")

    def _shaped(self, text: str, shape: tuple[int, ...]) -> str:
        """The value brought to a shape, line by line."""
        for step in steps(self.random, shape):
            while line := step(text, self.values[text]):
                text = self.line(line)
        return text

    def loss(self, more: str) -> None:
        """The sum of a term of every value that nobody reads, and of some others."""
        terms = [more] if more else []
        for text, value in list(self.values.items()):
            flows = value.requires_grad and (text not in self.read or self.random.random() < 0.1)
            if flows and value.numel() and not text.startswith("self."):
                terms.append(f"{self.random.uniform(0.2, 2.0):.3f} * {self._term(text)}")
        self.parameters.setdefault("p0", filled(T((4, 6)), self.generator))
        terms.append("self.p0.square().mean()")  # so that a loss always has a gradient
        self.lines.append(f"return {' + '.join(terms)}")

    def _term(self, text: str) -> str:
        value = self.values[text]
        if value.is_complex():
            return f"torch.view_as_real({text}.resolve_conj()).square().mean()"
        form = self.random.choice(("square", "mean", "tanh", "sum", "mse_loss", "cross_entropy"))
        if form == "cross_entropy" and value.dim() == 2 and value.shape[1] > 1:
            return f"F.cross_entropy({text}, {self._new(T((value.shape[0],), f'index {value.shape[1]}'))})"
        if form == "mse_loss" and value.dim():
            return f"F.mse_loss({text}, {self._new(T(tuple(value.shape), 'constant'))})"
        plain = {"square": f"{text}.square().mean()", "mean": f"{text}.mean()", "tanh": f"torch.tanh({text}).sum()"}
        return plain.get(form, f"({text} * {text}).sum() * 0.1")


class _Unusable(Exception):
    """A call that is left out again."""


def _fits(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return value.numel() <= ELEMENTS
    sizes = value.detach().abs()
    return value.numel() <= ELEMENTS and bool(sizes.isfinite().all() and (sizes <= LARGEST).all())
