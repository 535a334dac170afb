"""Where the time of a training step goes: a program, run with recorders around its expressions.

    profiler = Profiler(parallel, places)
    with profiler.step(optimizer):
        loss = parallel(**batch); loss.backward(); optimizer.step()
    profiler.result()

forward    the recorder around each expression marks its begin and end (`instrument`)
backward   `end` walks from what an expression has made to the autograd nodes that are new, and puts a hook before each: from
           there to the next hook the node is at work, sums of gradients that meet in it included
moving     communicators mark the begin and end of their calls (`clock`)
the rest   gradients accumulate under hooks of their own; the end of backward, and the optimizer, are hooks, too

The program computes what it always computes, in the same order. Outside of a profiled step nothing of this is there.
"""

from __future__ import annotations

import linecache
import socket
import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from autopar.errors import ConfigError, ProgramMismatch, refusal
from autopar.ir.profile import Bucket, Expression, Piece, RankProfile
from autopar.runtime.grid.grid import Axis, Grid
from autopar.runtime.profiling.clock import GRADIENTS, OTHER, WAIT, Owner, StepClock, TimedBucketComm, TimedComm, _Step
from autopar.runtime.profiling.instrument import RECORDER, Wanted, instrument
from autopar.runtime.program.pipeline import Pipeline
from autopar.runtime.program.program import Program
from autopar.runtime.session.parallel_module import Parallel

_engine: Any = torch.autograd.Variable._execution_engine
_ACCUMULATE = "AccumulateGrad"
# simulated ranks are threads, and Python 3.11 counts the depth of syntax trees across threads
_PARSER = threading.Lock()


class ExpressionRecorder:
    """What the program's recorders call, on one rank."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._rounds: dict[int, int] = {}
        self._nodes: dict[Any, None] = {}  # kept, so that they stay the objects they are
        self._backward = False

    def start(self) -> None:
        """Begin a step."""
        self._rounds, self._nodes, self._backward = {}, {}, False

    def again(self) -> None:
        """Begin a call of forward: of a micro-batch, once the backward pass of another is done."""
        self._rounds, self._backward = {}, False

    def begin(self, number: int) -> int:
        """Before an expression."""
        if self._backward:  # it is computed again, for the node that is at work
            self._clock.push(("backward", number, self._clock.owner[2]))
        else:
            turn = self._rounds.get(number, 0)
            self._rounds[number] = turn + 1
            self._clock.push(("forward", number, turn))
        return number

    def end(self, number: int, value: Any) -> Any:  # noqa: ANN401 (whatever the expression is)
        """Behind an expression: its value, with hooks on the autograd nodes that it has made."""
        owner = self._clock.owner
        if not self._backward and torch.is_grad_enabled():
            self._clock.hand(("profiling", None, 0))
            self.hook(value, ("backward", number, owner[2]))
        self._clock.pop()
        return value

    def hook(self, value: object, owner: Owner) -> None:
        """Hooks on the nodes behind a value that have none."""
        todo = [tensor.grad_fn for tensor in _tensors(value)]
        while todo:
            node = todo.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes[node] = None
            accumulates = node.name().endswith(_ACCUMULATE)
            node.register_prehook(partial(self._enter, GRADIENTS if accumulates else owner))
            todo += [following for following, _ in node.next_functions]

    def last(self, loss: Tensor) -> None:
        """Let the end of backward be noted, before and after what else waits for it."""
        if loss.grad_fn is not None:
            loss.grad_fn.register_prehook(lambda *_: _engine.queue_callback(partial(self._clock.hand, WAIT)))
            loss.grad_fn.register_hook(lambda *_: _engine.queue_callback(self._done))

    def _enter(self, owner: Owner, *_: object) -> None:
        self._backward = True
        self._clock.hand(owner)

    def _done(self) -> None:
        self._backward = False
        self._clock.hand(OTHER)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


class Profiler:
    """Profiles steps of a session. `places` are functions and texts, as the plan has them.

    Raises ProgramMismatch where the session's program is not a function with a source.
    """

    def __init__(self, parallel: Parallel, places: Sequence[Wanted] = ()) -> None:
        if isinstance(parallel.program.forward, Pipeline):
            problem, rule = "the graph is divided over positions", "a profile is of a program with one forward"
            fix = "`autopar run --profile` records actions instead, as `with parallel.recording_actions() as actions:` does"
            raise ConfigError(refusal("profile", problem, rule, fix=fix))
        self._parallel = parallel
        self._clock = StepClock(any(parameter.is_cuda for parameter in parallel.parameters()))
        self._recorder = ExpressionRecorder(self._clock)
        self._plain = parallel.program
        self._program, self.expressions = self._instrumented(places)
        self._steps: list[_Step] = []
        self.plain: list[float] = []  # seconds of steps that were not profiled, to compare with
        self.peak = 0

    @contextmanager
    def step(self, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
        """A step of forward, backward and update that is profiled."""
        with ExitStack() as stack:
            self._attach(stack, optimizer)
            self._recorder.start()
            self._clock.start()
            yield
            self._clock.mark(OTHER)
            self._steps.append(self._clock.step)
            self._recorder.start()  # the autograd nodes are let go

    def result(self) -> tuple[RankProfile, ...]:
        """What all ranks have measured, on every rank. Collective."""
        if not self._steps:
            rule = "a profile is of one step or more"
            fix = "with profiler.step(optimizer): ..."
            raise ConfigError(refusal("profile", "no step was profiled", rule, fix=fix))
        comm = self._parallel.grid.comm
        totals: list[Any] = comm.gather_objects([step.total for step in self._steps])
        longest = [max(each) for each in zip(*totals, strict=True)]
        middle = sorted(range(len(longest)), key=longest.__getitem__)[(len(longest) - 1) // 2]
        import msgspec  # a program that is not profiled does not load it

        every = comm.gather_objects(msgspec.to_builtins(self._mine(middle)))
        return tuple(msgspec.convert(profile, RankProfile) for profile in every)

    def _mine(self, middle: int) -> RankProfile:
        """This rank's part; the spans are those of step `middle`."""
        seconds = [step.seconds() for step in self._steps]
        owners = sorted({owner for times in seconds for owner in times}, key=lambda o: (o[0], o[1] or 0, o[2]))
        pieces = tuple(
            Piece(
                kind,
                expression,
                turn,
                statistics.median(times.get((kind, expression, turn), 0.0) for times in seconds),
                self._steps[middle].sent.get((kind, expression, turn), 0),
            )
            for kind, expression, turn in owners
        )
        number = {owner: i for i, owner in enumerate(owners)}
        step = self._steps[middle]
        zero = step.marks[0][0]
        return RankProfile(
            rank=self._parallel.grid.rank,
            host=socket.gethostname(),
            steps=tuple(step.total for step in self._steps),
            plain=tuple(self.plain),
            pieces=pieces,
            buckets=self._buckets(),
            spans=tuple((number[owner], start, end) for owner, start, end in step.spans() if end > start),
            flights=tuple((flight.bucket, flight.start - zero, flight.end - zero) for flight in step.flights),
            peak=self.peak,
        )

    def _buckets(self) -> tuple[Bucket, ...]:
        buckets = []
        for i, size in enumerate(self._parallel.bucket_sizes):
            flights = [flight for step in self._steps for flight in step.flights if flight.bucket == i]
            under_way = statistics.median([flight.end - flight.start for flight in flights] or [0.0])
            buckets.append(Bucket(size, under_way, statistics.median([flight.exposed for flight in flights] or [0.0])))
        return tuple(buckets)

    def _instrumented(self, places: Sequence[Wanted]) -> tuple[Program, tuple[Expression, ...]]:
        """The program with recorders, in a copy of its own namespace: same grid, same tables."""
        forward: Any = self._plain.forward
        file = forward.__code__.co_filename if isinstance(forward, FunctionType) else ""
        source = "".join(linecache.getlines(file))
        with _PARSER:
            instrumented = instrument(source, places)
            code = compile(instrumented.functions, file, "exec") if source else None
        names = [node.name for node in instrumented.functions.body if hasattr(node, "name")]
        if code is None or forward.__name__ not in names:
            rule = "what is profiled is a function of the program's file"
            raise ProgramMismatch(refusal("PROGRAM", f"its forward, {forward!r}, is none", rule, fix="compile again"))
        space = forward.__globals__ | {RECORDER: self._recorder}
        exec(code, space)  # the program's own text
        return replace(self._plain, forward=partial(self._forward, space[forward.__name__])), instrumented.expressions

    def _forward(self, forward: Any, *arguments: object) -> Any:  # noqa: ANN401 (the program's function)
        self._clock.hand(OTHER)
        self._recorder.again()
        return forward(*arguments)

    def _attach(self, stack: ExitStack, optimizer: torch.optim.Optimizer | None) -> None:
        """Put everything in place for a step; the stack takes it away again."""
        parallel, clock = self._parallel, self._clock
        stack.callback(setattr, parallel, "program", self._plain)
        parallel.program = self._program
        holders: list[Grid | Axis] = [parallel.grid, *parallel.grid.axes]
        for holder in holders:
            stack.callback(setattr, holder, "comm", holder.comm)
            holder.comm = TimedComm(holder.comm, clock)
        stack.enter_context(parallel.sums_over(lambda comm, i: TimedBucketComm(comm, clock, i)))
        hooks: list[Any] = [
            parallel.register_forward_pre_hook(lambda *_: clock.hand(("inputs", None, 0))),
            parallel.register_forward_hook(lambda *said: self._returned(said[-1])),
        ]
        if optimizer is not None:
            hooks.append(optimizer.register_step_pre_hook(self._update_begins))
            hooks.append(optimizer.register_step_post_hook(self._update_ends))
        for hook in hooks:
            stack.callback(hook.remove)

    def _update_begins(self, *_: object) -> None:
        self._clock.push(("update", None, 0))

    def _update_ends(self, *_: object) -> None:
        self._clock.pop()

    def _returned(self, output: Any) -> None:  # noqa: ANN401 (a loss, or `Outputs`)
        self._clock.hand(OTHER)
        loss = output if isinstance(output, Tensor) else output.loss
        self._recorder.hook(loss, OTHER)
        self._recorder.last(loss)
