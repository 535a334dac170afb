"""A verdict as a record: the notation of its letters, the `Op` that says so, and that record as source to paste.

The letters of a verdict are called a, b, c, ... in order of appearance; a dim without a letter is frozen, as ``[z1]``.
The record covers the calls that were tried and no others: the same literals, but for sizes, and as many dims.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autopar.ir.graph import Argument, Ref
from autopar.ops.discovery.call_shape import Form, Place, StandIn, index_bound, literals, made_up, replaced
from autopar.ops.discovery.search import Verdict
from autopar.ops.discovery.trial import Letter
from autopar.ops.record.emit_context import Emit, EmitContext
from autopar.ops.record.fallback import emit_whole
from autopar.ops.record.op import Op
from autopar.ops.record.printing import Expr
from autopar.ops.record.rule import Call, Rule, letters

MARK = "discovered: "  # how the note of such a record begins
_NAMES = "abcdefghijklmnopqrstuvwxy"


def notation(form: Form, verdict: Verdict) -> str:
    """The letters as one line: ``"a b, b -> a b"``."""
    frozen = (f"[z{i}]" for i in itertools.count(1))
    named = [(name, letter, _extent(form, letter)) for name, letter in zip(_NAMES, verdict.letters, strict=False)]

    def tensor(shape: Sequence[int], dims: Sequence[int]) -> str:
        """`dims` says per letter which dim of the tensor has it."""
        texts = ["1" if n == 1 else "" for n in shape]
        for (name, _, n), dim in zip(named, dims, strict=True):
            if dim >= 0:
                texts[dim] = name if shape[dim] == n else f"({name} {next(frozen)})"
        return " ".join(text or next(frozen) for text in texts)

    left = [tensor(x.shape, [letter.operands[i] for _, letter, _ in named]) for i, x in enumerate(form.operands)]
    read = [shape or () for shape in form.results]
    right = [
        tensor(shape, [letter.results[i] if shape else -1 for _, letter, _ in named]) for i, shape in enumerate(read)
    ]
    return f"{', '.join(left)} -> {', '.join(right)}".strip()


def _extent(form: Form, letter: Letter) -> int:
    return next(operand.shape[dim] for operand, dim in zip(form.operands, letter.operands, strict=True) if dim >= 0)


def found(
    text: str,
    sizes: Mapping[Place, str] | None = None,
    fixed: Mapping[Place, Argument] | None = None,
    addends: Sequence[int] = (),
    filled: Sequence[str] = (),
) -> Callable[[Call], Rule]:
    """The rule of calls in this notation, all operands in the order of the call.

    `sizes` are the literals that must be a letter's extent, `fixed` those that must be as they were when the letters
    were found; other calls raise ValueError, and run whole. `addends` and `filled` are those of `Rule`.
    """

    def rule(call: Call) -> Rule:
        actual = dict(literals(call.node.args, call.node.kwargs))
        refs = tuple(Ref(value.name) for value in call.operands)
        known = letters(text, replace(call, node=replace(call.node, args=refs, kwargs=())))
        same = actual.keys() == {*(sizes or {}), *(fixed or {})}
        same = same and all(actual[place] == value for place, value in (fixed or {}).items())
        same = same and all(actual[place] == known.extents[letter] for place, letter in (sizes or {}).items())
        if not same:
            raise ValueError(f"{call.node.target}: other literals than were tried")
        return replace(known, addends=frozenset(addends), filled=frozenset(filled))

    return rule


def called(sizes: Mapping[Place, str] | None = None) -> Emit:
    """An emitter of the call as torch knows it, with the literals at these places as local extents of letters."""

    def emit(ctx: EmitContext) -> str:
        texts = {place: Expr(ctx.extent(letter)) for place, letter in (sizes or {}).items()}
        args = tuple(replaced(value, at, texts) for at, value in enumerate(ctx.args))
        kwargs = {name: replaced(value, name, texts) for name, value in ctx.kwargs.items()}
        return emit_whole(replace(ctx, args=args, kwargs=kwargs))

    return emit


def points(call: Call, rule: Rule) -> float:
    """Operations of a call: two per point of its letters where one of several operands is summed over, one else.

    Dims without a letter count once, as many as the tensor with most of them has.
    """
    every = (*rule.operands, *rule.results)
    held = [{name for dim in dims for name in dim} for dims in every]
    size = math.prod(rule.extents[name] for name in set().union(*held) - rule.frozen)
    rest = max(math.prod(rule.extents[name] for name in names & rule.frozen) for names in held)
    kept = set().union(*held[len(rule.operands) :])
    products = any(sum(name in names for names in held) > 1 for name in set().union(*held) - kept)
    return float(size * rest * (2 if products else 1))


def record(form: Form, verdict: Verdict) -> Op:
    """The operator's record, as far as the verdict goes."""
    parts = _parts(form, verdict)
    return Op(
        name=_name(form),
        targets=(form.target,),
        note=MARK + notation(form, verdict),
        rule=found(*parts),
        emit=called(parts[1]),
        work=_work(form, verdict),
        flops=points,
    )


def _parts(
    form: Form, verdict: Verdict
) -> tuple[str, dict[Place, str], dict[Place, Argument], tuple[int, ...], tuple[str, ...]]:
    """The arguments of `found`."""
    named = dict(zip(_NAMES, verdict.letters, strict=False))
    sizes = {place: name for name, letter in named.items() for place in letter.literals}
    kept = {place: value for place, value in literals(form.args, form.kwargs) if place not in sizes}
    addends = tuple(sorted({i for letter in verdict.letters for i in letter.addends}))
    filled = tuple(name for name, letter in named.items() if letter.filled)
    return notation(form, verdict), sizes, kept, addends, filled


def _name(form: Form) -> str:
    return re.sub(r"\W", "_", form.target.removesuffix(".default").removeprefix("aten."))


def _work(form: Form, verdict: Verdict) -> str:
    """What it is priced as: a product sums over a letter of two operands, a sum over one of one."""
    summed = [letter for letter in verdict.letters if all(dim < 0 for dim in letter.results)]
    if any(sum(dim >= 0 for dim in letter.operands) > 1 for letter in summed):
        return "matmul"
    return "reduce" if summed else "pointwise"


def source(form: Form, verdict: Verdict) -> str:
    """The record as a Python file: it registers the operator, and the samples prove it."""
    text, sizes, kept, addends, filled = _parts(form, verdict)
    variant = list(made_up(form, frozenset(verdict.tied)))[verdict.mode][0]
    options = {"sizes": sizes, "fixed": kept, "addends": addends, "filled": filled}
    parts = [_quoted(text), *(f"{name}={_quoted(value)}" for name, value in options.items() if value)]
    sample = _sample(form, variant)
    names = "".join(f", {name}" for name in ("Dtype",) if "Dtype(" in sample + repr(kept))
    lines = [
        f'"""The operator {form.target}: letters found by running it on small shards, to be read and widened."""\n',
        *(["from autopar.ir.graph import Dtype"] if names else []),
        "from autopar.ops.discovery.record import called, found, points",
        "from autopar.ops import Op, Sample, T, register_operator\n",
        "register_operator(",
        "    Op(",
        f'        name="{_name(form)}",',
        f'        targets=("{form.target}",),',
        f'        note="{text}",',
        f"        rule=found({', '.join(parts)}),",
        f"        emit=called({_quoted(sizes)})," if sizes else "        emit=called(),",
        f'        work="{_work(form, verdict)}",',
        "        flops=points,",
        f"        samples=({sample},),",
        "    )",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    """A literal with the quotes that this project's formatter wants."""
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')


def _sample(form: Form, variant: StandIn) -> str:
    sizes = dict(variant.sizes)
    below = index_bound(form, variant)

    def tensor(place: int) -> str:
        operand, shape = form.operands[place], variant.shapes[place]
        plain = "normal" if operand.flows else "constant"
        kind = {"float": plain, "complex": "complex", "bool": "bool"}.get(operand.kind, f"index {below}")
        return f"T({shape!r})" if kind == "normal" else f"T({shape!r}, {kind!r})"

    def text(value: Argument) -> str:
        if isinstance(value, Ref):
            return tensor(int(value.name))
        if isinstance(value, tuple):
            inner = ", ".join(map(text, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return repr(value)

    args = [text(replaced(value, at, sizes)) for at, value in enumerate(form.args)]
    named = [f'("{name}", {text(replaced(value, name, sizes))})' for name, value in form.kwargs]
    positional = f"({args[0]},)" if len(args) == 1 else f"({', '.join(args)})"
    return f"Sample({positional})" if not named else f"Sample({positional}, ({', '.join(named)},))"
