"""One operator of the database through the compiler: all samples together, one by one where something is not right.

    tried(info, count, grids) -> Row     what came out, worst first: WRONG, CRASH, REFUSED, ok; or nocompare

Each call of the graph is pinned to each of its letters in turn, those of all calls together, on every grid; the program
runs on simulated ranks, and every result and gradient is compared with the module's own.
"""

from __future__ import annotations

import copy
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import autopar
from autopar.compiler import Compiled
from autopar.errors import AutoparError, InternalError, ProgramMismatch
from autopar.ir.graph import Graph, Node
from autopar.ir.grid import GridShape
from autopar.ir.layout import Partial
from autopar.ir.plan_file import to_json
from autopar.ops.lookup import call_of, record_of_call
from autopar.ops.record.rule import choices, fills
from autopar.runtime import simulate
from autopar.runtime.parameters.deferred_init import module_values
from autopar.runtime.program.plan_reader import parse_description
from autopar.runtime.session.parallel_module import Parallel
from benchmarks.compatibility.opdb_samples import DatabaseSample, SampleCalls, operators, samples_of

ORDER = ("WRONG", "CRASH", "REFUSED", "ok")  # the worst first
CLOSE = {torch.float32: 1e-5, torch.complex64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.complex32: 1e-2}


@dataclass(frozen=True, slots=True)
class OperatorOutcome:
    """One operator: its status, letters that were split, programs that were run, and what is not right, by sample."""

    name: str
    status: str
    samples: int = 0
    right: int = 0
    programs: int = 0
    split: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    seconds: float = 0.0
    asked: int = 0
    grids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """The programs that were run so far, and the operators that some of them split, or none could."""

    programs: list[str] = field(default_factory=list)
    split: dict[str, None] = field(default_factory=dict)
    whole: dict[str, None] = field(default_factory=dict)


class Differs(Exception):
    """A program that computes something else than the module."""


def warm_up() -> None:
    """Load what an operator needs, so that children need not."""
    tried("neg", operators()["neg"], 1, ("2",))


def tried(name: str, info: Any, count: int, grids: Sequence[str]) -> OperatorOutcome:  # noqa: ANN401 (torch's OpInfo)
    """Try an operator on so many samples."""
    began = time.perf_counter()
    samples, why = _comparable(info, count)
    if not samples:
        return OperatorOutcome(name, "nocompare", why=(why,))
    seen = Tally()
    each = _each(samples, grids, seen)
    status = min((status for status, _ in each), key=ORDER.index)
    reasons = dict.fromkeys(f"{status}: {text}" for status, text in each if status != "ok")
    return OperatorOutcome(
        name,
        status,
        len(samples),
        sum(status == "ok" for status, _ in each),
        len(seen.programs),
        tuple(seen.split),
        tuple(seen.whole),
        tuple(reasons),
        round(time.perf_counter() - began, 1),
        count,
        tuple(grids),
    )


def _each(samples: list[DatabaseSample], grids: Sequence[str], seen: Tally) -> list[tuple[str, str]]:
    """Status and reason of every sample; halves are tried where not all are right."""
    together = outcome(samples, grids, seen)
    if together[0] == "ok" or len(samples) == 1:
        return [together] * len(samples)
    half = len(samples) // 2
    each = [*_each(samples[:half], grids, seen), *_each(samples[half:], grids, seen)]
    if all(status == "ok" for status, _ in each):
        each[-1] = (together[0], f"only together: {together[1]}")
    return each


def _comparable(info: Any, count: int) -> tuple[list[DatabaseSample], str]:  # noqa: ANN401
    """The samples that eager runs, and runs alike twice; or why there are none."""
    if "empty" in info.name:
        return [], "not initialized"
    try:
        samples = samples_of(info, count)
    except Exception as error:
        return [], f"no samples: {_short(error)}"
    comparable, why = [], "no samples for this dtype"
    for sample in samples:
        try:
            if _draws(sample):
                why = "random"
            else:
                _eager(SampleCalls([sample]))
                comparable.append(sample)
        except Exception as error:
            why = f"eager: {_short(error)}"
    return comparable, why


def _draws(sample: DatabaseSample) -> bool:
    """Whether the call draws random numbers; some functions of the database set the seed, always to the same number."""
    seed, results = torch.manual_seed, []
    for offset in (0, 1):
        seed(offset)
        with (
            mock.patch.object(torch, "manual_seed", lambda given, offset=offset: seed(given + offset)),
            torch.no_grad(),
        ):
            leaves = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in sample.leaves]
            results.append({str(i): result for i, result in enumerate(sample.call(leaves))})
    try:
        _compare(*results, relative=0.0)
    except Differs:
        return True
    return False


def _eager(model: SampleCalls) -> dict[str, Tensor]:
    """Results and gradients of the module itself."""
    model = copy.deepcopy(model)
    out = model(**model.inputs())
    out["loss"].backward()
    gradients = {
        f"gradient of {name}": tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None
    }
    buffers = {
        name: tensor for name, tensor in model.state_dict().items() if name not in dict(model.named_parameters())
    }
    return {
        **{name: tensor.detach() for name, tensor in out.items()},
        **gradients,
        **{f"new {k}": v for k, v in buffers.items()},
    }


def outcome(samples: list[DatabaseSample], grids: Sequence[str], seen: Tally | None = None) -> tuple[str, str]:
    """Status and reason of some samples together."""
    seen = seen or Tally()
    model = SampleCalls(samples)
    expected = _eager(model)
    try:
        outputs = [name for name in expected if name.startswith("call")]
        compiled = autopar.compile(model, model.inputs(), grid=grids[0], loss="loss", outputs=outputs)
        _try(compiled, model, expected)
        seen.programs.append(grids[0])
        for grid in grids:
            for pins in _rounds(compiled.graph, grid, seen):
                _try(compiled.replan(grid=grid, pin=pins), model, expected)
                seen.programs.append(grid)
    except Differs as error:
        return "WRONG", str(error)
    except InternalError as error:
        return "CRASH", _refusal(error)
    except AutoparError as error:
        return "REFUSED", _refusal(error)
    except Exception as error:
        return "CRASH", _short(error)
    return "ok", ""


def _try(compiled: Compiled, model: SampleCalls, expected: Mapping[str, Tensor]) -> None:
    """Run a program, and compare. Raises Differs."""
    relative = _closeness(compiled.graph)
    try:
        ranks = _run(compiled, model, list(expected))
    except ProgramMismatch:  # a step says that its numbers do not fit
        raise
    except AutoparError as error:  # a plan that was made must run
        raise RuntimeError(_refusal(error)) from error
    for rank, computed in enumerate(ranks):
        try:
            _compare(expected, computed, relative)
        except Differs as error:
            pins = ", ".join(compiled.plan.options.pins) or "no pins"
            raise Differs(f"{error} on rank {rank} of grid {compiled.plan.grid} under {pins}") from None


def _run(compiled: Compiled, model: SampleCalls, expected: Sequence[str]) -> list[dict[str, Tensor]]:
    """What every rank finds: whole results, and whole gradients."""
    code = compile(compiled.source, "program.py", "exec")
    description = parse_description(to_json(compiled.plan), "plan.json")
    known = {name for item in description.parameters for name in (item.name, *item.aliases)}
    values = [*compiled.constants.items(), *(pair for pair in module_values(model) if pair[0] in known)]
    inputs = {item.name: model.inputs()[item.name] for item in description.inputs}

    def rank() -> dict[str, Tensor]:
        names: dict[str, Any] = {"__name__": "program"}
        exec(code, names)
        parallel = Parallel(names["PROGRAM"], description, values)
        out = parallel(**inputs)
        loss = out.loss if hasattr(out, "loss") else out
        loss.backward()
        tensors = {name: out[name].detach() for name in expected if name.startswith("call")}
        tensors |= {f"gradient of {name}": value for name, value in parallel.full_gradients().items()}
        state = {
            f"new {name}": value for name, value in parallel.full_state_dict().items() if f"new {name}" in expected
        }
        return {"loss": loss.detach(), **tensors, **state}

    return simulate(GridShape.parse(compiled.plan.grid).size, rank)


def _rounds(graph: Graph, grid: str, seen: Tally) -> Iterator[list[str]]:
    """Pins that take every call of the samples through all its letters, those of all calls at once."""
    offered = {}
    for node in graph.nodes:
        if re.fullmatch(r"call\d+\.does", node.module):
            letters = _letters(graph, node, GridShape.parse(grid).sizes)
            target = node.target.removesuffix(".default")
            (seen.split if letters else seen.whole)[target] = None
            if letters:
                offered[node.name] = letters
    for turn in range(max(map(len, offered.values()), default=0)):
        yield [f"{name}: {letters[turn % len(letters)]}@axis0" for name, letters in offered.items()]


def _letters(graph: Graph, node: Node, sizes: tuple[int, ...]) -> list[str]:
    """The letters that a call may split over the only axis of a grid."""
    call = call_of(graph, node)
    rule = record_of_call(call)[1]
    letters = {}
    for choice in choices(rule, call, {}):
        pairs = zip((*choice.operands, *choice.results), (*call.operands, *call.results), strict=True)
        constants = any(isinstance(layout, Partial) and not value.differentiable for layout, value in pairs)
        if choice.mode == "split" and not constants and fills(rule, (choice,), sizes):
            letters[choice.letter] = None
    return list(letters)


def _closeness(graph: Graph) -> float:
    """The tolerance: that of the least precise dtype in the graph."""
    dtypes = {getattr(torch, value.dtype) for value in graph.values.values()}
    return max((CLOSE.get(dtype, 1e-10) for dtype in dtypes), default=1e-10)


def _compare(expected: Mapping[str, Tensor], computed: Mapping[str, Tensor], relative: float) -> None:
    """Raise Differs for the first tensor that is not as expected. Infinities and NaN have their places."""
    for name, tensor in expected.items():
        if name not in computed:
            if bool(tensor.any()):
                raise Differs(f"{name} is missing")
            continue
        other = computed[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise Differs(f"{name} is {other.dtype} {tuple(other.shape)}, not {tensor.dtype} {tuple(tensor.shape)}")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            if not torch.equal(tensor, other):
                raise Differs(f"{name} differs")
            continue
        finite = tensor[torch.isfinite(tensor)].abs()
        scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
        if not torch.allclose(other, tensor, rtol=0.0, atol=relative * scale, equal_nan=True):
            raise Differs(
                f"{name} is off by {float((other - tensor).abs().nan_to_num(nan=float('inf')).max()) / scale:.3g}"
            )


def _refusal(error: AutoparError) -> str:
    """A refusal without the place in our own harness, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return re.sub(r"\s+", " ", " | ".join(lines))[:400]


def _short(error: BaseException) -> str:
    """An exception and where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "torch/" not in frame.filename]
    at = f" ({frames[-1].filename.split('/')[-1]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {re.sub(chr(10), ' ', str(error))[:300]}{at}"
