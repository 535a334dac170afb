"""Random models, made of the samples of all records: what no single call shows is how calls read one another's values.

    drawn_model(seed)     a model of 5 to 15 calls, as source text, its parameters and its inputs

A call is a sample of a record, drawn; its operands are values that were computed before, brought to the sample's shape by
views, reductions and broadcasts, or new parameters and inputs. The calls run as they are drawn, in float64: one whose numbers
are not finite, or too large to compare, is left out again. A new record is drawn as soon as it has samples.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from autopar.graph import Dtype
from autopar.ops.op import Op, T, registry
from autopar.proof.whole import REFUSED, filled

LARGEST, ELEMENTS = 1e3, 4000  # of a value's numbers, and how many there are
_REAL = ("normal", "constant", "unit", "positive")
_NAMES = re.compile(r"(?:self\.)?[vpi]\d+(?:\[\d+\])?")
_LEFT_OUT = (  # records that are drawn with care elsewhere
    "recurrent",  # torch reads beyond its weights where their shapes do not fit
    "empty", "nextafter", "frexp",  # no defined numbers; no gradient that is one in float64
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A drawn model: its forward as text, its parameters and inputs by name, in float64."""

    text: str
    parameters: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    records: tuple[str, ...]  # names of the records that were drawn

    def module(self) -> nn.Module:
        """The model in float32, as people bring it."""
        names: dict[str, Any] = {"torch": torch, "F": torch.nn.functional}
        exec(compile(self.text, "model.py", "exec"), names)
        made: nn.Module = type("Drawn", (nn.Module,), {"forward": names["forward"]})()
        for name, value in self.parameters.items():
            made.register_parameter(name, nn.Parameter(value.to(_narrow(value.dtype))))
        return made

    def example_inputs(self) -> dict[str, Tensor]:
        """Its inputs in float32."""
        return {name: value.to(_narrow(value.dtype)) for name, value in self.inputs.items()}


def _narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else dtype


def drawable(op: Op) -> bool:
    """Whether the record's calls can be part of a drawn model."""
    return bool(op.samples) and not op.random and op.name not in _LEFT_OUT and any(map(_aten, op.targets))


def _aten(target: str) -> bool:
    return target.startswith("aten.")


def drawn_model(seed: int, calls: tuple[int, int] = (5, 15)) -> Model:
    """The model of this seed."""
    draw = _Draw(random.Random(seed))
    wanted = draw.random.randint(*calls)
    every = [op for op in dict.fromkeys(registry().values()) if drawable(op)]
    weights = [1 if op.work == "pointwise" else 4 for op in every]  # those are many, and alike
    for _ in range(20 * wanted):
        if len(draw.records) < wanted:
            draw.call(draw.random.choices(every, weights)[0])
    draw.loss()
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

    def call(self, op: Op) -> None:
        """One more call, or nothing where torch refuses it or its numbers are of no use."""
        sample = self.random.choice(op.samples)
        target = sample.target or self.random.choice(op.targets)
        if not _aten(target):
            return
        before = self._state()
        try:
            given = [self._argument(one) for one in sample.args]
            named = [f"{name}={self._argument(value)}" for name, value in sample.kwargs]
            known = set(self.values)
            self.line(f"torch.ops.{target}({', '.join([*given, *named])})")
            for made in self.values.keys() - known:
                self._backward(self.values[made])
            self.records.append(op.name)
            return
        except (*REFUSED, NotImplementedError, _Unusable):
            pass
        self._restore(before)

    def _state(self) -> tuple[Any, ...]:
        return (
            list(self.lines), dict(self.values), dict(self.parameters), dict(self.inputs), set(self.read), self.count
        )  # fmt: skip

    def _restore(self, state: tuple[Any, ...]) -> None:
        self.lines, self.values, self.parameters, self.inputs, self.read, self.count = state

    def line(self, text: str) -> str:
        """Run one more line; the name of the first tensor that it makes, or nothing where it has none to go on with."""
        name = self._name("v")
        found = eval(text, {"torch": torch, "F": torch.nn.functional, **self._names()})
        results = {name: found} if isinstance(found, Tensor) else {f"{name}[{i}]": one for i, one in enumerate(found)}
        usable = {text: one for text, one in results.items() if isinstance(one, Tensor) and _fits(one)}
        if not usable or any(one.is_floating_point() and not _fits(one) for one in results.values()):
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
            for one in torch.autograd.grad(size.sum(), leaves, allow_unused=True, retain_graph=True):
                if one is not None and not _fits(one):
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
            return "torch.float32" if value.name.startswith("float") else f"torch.{value.name}"
        if isinstance(value, tuple):
            return f"[{', '.join(map(self._argument, value))}]"
        return f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)

    def _operand(self, tensor: T) -> str:
        """A value that was computed before, in the sample's shape, or a new one."""
        kind = tensor.kind.split()[0] if tensor.kind else "normal"
        if kind not in _REAL:
            if kind in ("float32", "float16", "bfloat16", "complex"):
                raise _Unusable
            return self._new(tensor)
        known = [text for text, one in self.values.items() if one.numel()]
        if not known or self.random.random() < 0.25:
            return self._new(tensor)
        near = [text for text in known if self.values[text].shape == tensor.shape]
        chosen = self.random.choice(near if near and self.random.random() < 0.7 else known)
        shaped = self._shaped(chosen, tensor.shape)
        if kind in ("unit", "positive"):
            return self.line(
                f"torch.sigmoid({shaped}) * 0.8 + 0.1" if kind == "unit" else f"torch.sigmoid({shaped}) + 0.5"
            )
        return self.line(f"torch.tanh({shaped})") if float(self.values[shaped].detach().abs().max()) > 5 else shaped

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

    def _shaped(self, text: str, shape: tuple[int, ...]) -> str:
        """The value brought to a shape, line by line."""
        value = self.values[text]
        if value.is_complex():
            text = self.line(f"torch.view_as_real({text})")
        elif not value.is_floating_point():
            text = self.line(f"{text}.float()")
        for step in _steps(self.random, shape):
            while line := step(text, self.values[text]):
                text = self.line(line)
        return text

    def loss(self) -> None:
        """The sum of a term of every value that nobody reads, and of some others."""
        terms = []
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
            return f"torch.view_as_real({text}).square().mean()"
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
    found = value.detach().abs()
    return value.numel() <= ELEMENTS and bool(found.isfinite().all() and (found <= LARGEST).all())


Step = Callable[[str, Tensor], str]


def _steps(draw: random.Random, shape: tuple[int, ...]) -> Iterator[Step]:
    """What leads to a shape: each gives the next expression, or nothing when it is done."""

    def fewer(text: str, value: Tensor) -> str:
        if value.dim() <= len(shape):
            return ""
        if draw.random() < 0.4:
            return f"{text}.flatten(0, 1)"
        form = draw.choice(("mean({})", "sum({})", "amax({})", "select({}, 0)", "logsumexp({})"))
        return f"{text}.{form.format(draw.randrange(value.dim()))}"

    def more(text: str, value: Tensor) -> str:
        return f"{text}.unsqueeze({draw.randint(0, value.dim())})" if value.dim() < len(shape) else ""

    turned = [draw.random() < 0.2]

    def turn(text: str, value: Tensor) -> str:
        if value.dim() < 2 or not turned.pop() if turned else True:
            return ""
        return f"{text}.transpose({', '.join(map(str, draw.sample(range(value.dim()), 2)))})"

    yield from (fewer, more, turn)
    yield lambda text, value: _extended(draw, text, value, shape)


def _extended(draw: random.Random, text: str, value: Tensor, shape: Sequence[int]) -> str:
    """The next dim whose extent is another: broadcast, cut, or put together with itself."""
    for dim, (have, want) in enumerate(zip(value.shape, shape, strict=True)):
        if have == want:
            continue
        if have == 1:
            return f"{text}.expand({', '.join(str(want if i == dim else n) for i, n in enumerate(value.shape))})"
        if have > want:
            return f"{text}.narrow({dim}, {draw.randint(0, have - want)}, {want})"
        return f"torch.cat([{text}, 0.7 * {text} + 0.1], {dim})"
    return ""
