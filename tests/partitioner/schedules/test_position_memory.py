"""The walk through a position's actions, against an executor that holds every tensor by name and lets go as the runtime does."""

from collections import Counter

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autopar.errors import ConfigError
from autopar.ir.pipeline import receives
from autopar.partitioner.schedules.auto import auto
from autopar.partitioner.schedules.named import NAMED
from autopar.partitioner.schedules.pipeline_problem import PipelineProblem, SegmentEdge
from autopar.partitioner.schedules.position_memory import (
    CrossingEdge,
    DividedStep,
    ReadMemory,
    SegmentMemory,
    WrittenMemory,
    position_peaks,
)
from autopar.partitioner.schedules.simulate import simulate


def seconds(here, there, nbytes):
    return 0.3 + 0.01 * nbytes


def drawn_segment(draw, number, edges, deferred):
    n, w = draw(st.integers(1, 3)), draw(st.integers(1, 2)) if deferred else 0
    inside = np.array([draw(st.integers(0, 9)) for _ in range(2 * n + w)])
    last = 2 * n + w
    times = st.one_of(st.just(0), st.integers(n + 1, last))
    reads = {
        edge.name: ReadMemory(edge.nbytes, draw(times), draw(st.integers(n, 2 * n)))
        for edge in edges
        if number in edge.readers
    }
    written = [edge for edge in edges if edge.source == number]
    writes = {
        edge.name: WrittenMemory(
            i, edge.nbytes, draw(st.integers(0, n - 1)), draw(times), draw(st.integers(n + 1, last))
        )
        for i, edge in enumerate(written)
    }
    births = tuple(
        (name, 7, draw(st.integers(n, last - 1))) for name in ("tied", f"own{number}") if draw(st.booleans())
    )
    kept, held = draw(st.integers(0, 9)), draw(st.integers(0, 9)) if deferred else 0
    return SegmentMemory(n, inside, inside // 2, kept, held, births, reads, writes)


@st.composite
def steps(draw):
    count, positions, microbatches = draw(st.integers(2, 5)), draw(st.integers(2, 3)), draw(st.integers(1, 4))
    at = tuple(draw(st.integers(0, positions - 1)) for _ in range(count))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    edges = []
    for i in range(count):
        readers = tuple(j for a, j in pairs if a == i and draw(st.booleans()))
        edges.append(
            CrossingEdge(f"e{i}", i, readers, draw(st.integers(1, 50)), draw(st.booleans()), draw(st.booleans()))
        )
    task = PipelineProblem(
        positions, microbatches, at, *(tuple(draw(st.integers(1, 5)) / 2 for _ in at) for _ in range(2)),
        tuple(draw(st.sampled_from((0.0, 0.25))) for _ in at),
        tuple(
            SegmentEdge(e.source, j, *(seconds(0, 1, e.nbytes),) * 2, e.nbytes, e.gradient) for e in edges for j in e.readers
        ),
        (1.0,) * count, (1.0,) * count,
    )  # fmt: skip
    try:
        lists = NAMED[draw(st.sampled_from(sorted(NAMED)))](task)
    except ConfigError:
        lists = auto(task, tries=0)
    deferring = {action.segment for actions in lists for action in actions if action.kind == "W"}
    memories = tuple(drawn_segment(draw, i, edges, i in deferring) for i in range(count))
    timeline = simulate(task, lists)
    return DividedStep(at, memories, tuple(edges), lists, timeline.start, timeline.end, seconds)


class Replay:
    """One position as the runtime runs it: a tensor is there while somebody holds it."""

    def __init__(self, step, here):
        self.step, self.here, self.actions = step, here, step.lists[here]
        self.sizes, self.holders = {}, Counter()
        self.known, self.grown, self.posted, self.most = set(), 0, 0, 0
        self.sent, self.base = [], 0
        self.needed = [self.receives(action) for action in self.actions]
        seen = set()
        for row in self.needed:
            row[:] = [one for one in row if one not in seen]
            seen.update(row)

    def take(self, name, size=None):
        if size is not None:
            self.sizes[name] = size
        self.holders[name] += 1

    def drop(self, name):
        self.holders[name] -= 1
        assert self.holders[name] >= 0, name

    def look(self, inside=0):
        there = sum(size for name, size in self.sizes.items() if self.holders[name])
        self.most = max(self.most, self.base + self.grown + inside + there)

    def elsewhere(self, edge):
        return sorted({self.step.position[reader] for reader in edge.readers} - {self.here})

    def local(self, edge):
        return [reader for reader in edge.readers if self.step.position[reader] == self.here]

    def receives(self, action):
        rows = []
        for edge in self.step.edges:
            if action.kind == "F" and action.segment in edge.readers and self.step.position[edge.source] != self.here:
                rows.append((("value", edge.name, action.microbatch), edge.nbytes))
            if action.kind == "B" and edge.source == action.segment and edge.gradient:
                rows += [(("back", edge.name, action.microbatch, q), edge.nbytes) for q in self.elsewhere(edge)]
        return rows

    def run(self):
        for now, action in enumerate(self.actions):
            while self.posted < len(self.actions) and receives.may_post(
                self.posted, now, sum(size for row in self.needed[now : self.posted] for _, size in row)
            ):
                for name, size in self.needed[self.posted]:
                    self.take(name, size)
                self.posted += 1
            getattr(self, action.kind)(now, action, self.step.segments[action.segment])
            end = self.step.end[self.here][now]
            for name, through in [one for one in self.sent if one[1] <= end]:
                self.sent.remove((name, through))
                self.drop(name)
        return self.most

    def through(self, now, other, kind, edge, microbatch):
        """When a message that leaves behind an action has arrived, by scanning the receiver's moments."""
        end = self.step.end[self.here][now]
        there = Replay(self.step, other)
        name = ("value", edge.name, microbatch) if kind == "F" else ("back", edge.name, microbatch, self.here)
        wanted = next(i for i, row in enumerate(there.needed) if name in [one for one, _ in row])
        at, posted = 0, 0
        for at in range(len(there.actions)):
            while posted < len(there.actions) and receives.may_post(
                posted, at, sum(size for row in there.needed[at:posted] for _, size in row)
            ):
                posted += 1
            if posted > wanted:
                break
        ends, starts = self.step.end[other], self.step.start[other]
        ready = max(end + seconds(0, 1, edge.nbytes), ends[at - 1] if at else 0.0)
        for start, stop in zip(starts, ends, strict=True):
            if ready <= start:
                return ready
            if ready <= stop:
                return stop
        return ready

    def send(self, name, now, edge, other, kind, microbatch):
        self.take(name)
        self.sent.append((name, self.through(now, other, kind, edge, microbatch)))

    def F(self, now, action, memory):
        m = action.microbatch
        reads = [edge for edge in self.step.edges if action.segment in edge.readers]
        written = [edge for edge in self.step.edges if edge.source == action.segment]
        for edge in reads:
            name = ("value", edge.name, m)
            if name not in self.known and self.step.position[edge.source] != self.here:
                self.known.add(name)
                for _ in self.local(edge):  # the receive's own holder is the first reader's
                    self.take(name)
                self.drop(name)
        for time in range(memory.steps):
            for edge in written:
                if memory.writes[edge.name].made == time:
                    self.take(("value", edge.name, m), edge.nbytes)
            self.look(int(memory.inside[time]))
        for edge in reads:
            if memory.reads[edge.name].kept:
                self.take(("value", edge.name, m))
            self.drop(("value", edge.name, m))
        for edge in written:
            name = ("value", edge.name, m)
            for _ in [*self.local(edge), *(["returned"] if edge.returned else [])]:
                self.take(name)
            if memory.writes[edge.name].kept:
                self.take(name)
            for other in self.elsewhere(edge):
                self.send(name, now, edge, other, "F", m)
            self.drop(name)
        self.base += memory.kept

    def backward(self, now, action, memory, times):
        """The times of B or W, at which what is kept is let go and gradients of parameters come."""
        m = action.microbatch
        for time in times:
            for edge in self.step.edges if action.kind == "B" or time > times[0] else ():
                used = edge.source == action.segment and edge.gradient and edge.readers
                if used and memory.writes[edge.name].gradient == time:
                    self.drop(("sum", edge.name, m))
                if action.segment in edge.readers and edge.gradient and memory.reads[edge.name].gradient == time:
                    self.take(("part", edge.name, action.segment, m), edge.nbytes)
                if action.segment in edge.readers and memory.reads[edge.name].kept == time:
                    self.drop(("value", edge.name, m))
                if edge.source == action.segment and memory.writes[edge.name].kept == time:
                    self.drop(("value", edge.name, m))
            for name, nbytes, birth in memory.births if time > times[0] else ():
                if birth + 1 == time and name not in self.known:
                    self.known.add(name)
                    self.grown += nbytes
            if time < times[-1]:
                self.look(int(memory.inside[time]))
            elif action.kind == "B":
                self.look(memory.held)

    def B(self, now, action, memory):
        m, n = action.microbatch, memory.steps
        self.base -= memory.kept
        for edge in self.step.edges:
            if edge.source != action.segment or not edge.gradient or not edge.readers:
                continue
            parts = [("part", edge.name, reader, m) for reader in self.local(edge)]
            self.take(("sum", edge.name, m), edge.nbytes if len(parts) > 1 else 0)
        self.look(memory.kept)
        for edge in self.step.edges:
            if edge.source != action.segment or not edge.gradient or not edge.readers:
                continue
            for name in [("part", edge.name, reader, m) for reader in self.local(edge)]:
                self.drop(name)
            for q in self.elsewhere(edge):
                self.drop(("back", edge.name, m, q))
            self.sizes["sum", edge.name, m] = edge.nbytes
        self.backward(now, action, memory, range(n, 2 * n + 1))
        done = []
        for edge in self.step.edges:
            home = self.step.position[edge.source]
            parts = [("part", edge.name, reader, m) for reader in self.local(edge)]
            last = action.segment in edge.readers and edge.gradient and home != self.here
            if last and all(name in self.sizes for name in parts):
                whole = ("whole", edge.name, m) if len(parts) > 1 else parts[0]
                self.take(whole, edge.nbytes)
                done.append((edge, home, whole, parts))
        self.look(memory.held)
        for edge, home, whole, parts in done:
            for name in parts:
                self.drop(name)
            self.send(whole, now, edge, home, "B", m)
            self.drop(whole)
        self.base += memory.held

    def W(self, now, action, memory):
        self.base -= memory.held
        self.backward(now, action, memory, range(2 * memory.steps, len(memory.inside) + 1))


@settings(max_examples=60, deadline=None, phases=(Phase.generate,))
@given(steps())
def test_the_walk_holds_what_the_runtime_holds(step):
    for position, peak in enumerate(position_peaks(step)):
        assert peak.nbytes == sum(peak.parts.values())
        assert peak.nbytes == (Replay(step, position).run() if step.lists[position] else 0)
