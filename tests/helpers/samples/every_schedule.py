"""The oracle of schedules: every order of every position, for pipelines with few actions."""

import itertools
import math

from autopar.partitioner.schedules.rows import rows_of
from autopar.partitioner.schedules.simulate import finish, peak_bytes, run


def best_makespan(problem):
    """The least makespan over all orders, with and without deferred weight gradients of each segment; `inf` for none."""
    best = math.inf
    options = [(False, True) if seconds else (False,) for seconds in problem.weight]
    for deferred in itertools.product(*options):
        rows = rows_of(problem, deferred)
        each = [[codes for codes in orders(rows, p) if keeps_within(rows, p, codes)] for p in range(problem.positions)]
        for codes in itertools.product(*each):
            ends = run(rows, codes)
            if ends is not None:
                best = min(best, finish(problem, ends))
    return best


def keeps_within(rows, position, codes):
    return peak_bytes(rows, codes) <= rows.problem.most(position) * (1 + 1e-12)


def orders(rows, position):
    """Orders of a position's actions in which none comes before one that must come before it; rows in micro-batch order."""
    problem, own = rows.problem, rows.own[position]
    before = {row: set() for row in rows.topological}  # rows whose action of the same micro-batch must come first
    for row in rows.topological:
        for reader, *_ in rows.readers[row]:
            before[reader] |= {row} | before[row]

    def extend(done, codes):
        if len(codes) == len(own) * problem.microbatches:
            yield tuple(codes)
        for row in own:
            k = done[row]
            if k < problem.microbatches and all(done[other] > k for other in before[row] if other in done):
                yield from extend(done | {row: k + 1}, [*codes, row * problem.microbatches + k])

    return list(extend(dict.fromkeys(own, 0), []))
