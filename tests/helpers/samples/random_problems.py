"""Random partition problems small enough to try every choice."""

import contextlib

import numpy as np

from autopar.partitioner.problem import Choices, Edge, Problem

SHAPES = ("chain", "tree", "series-parallel", "sparse")


@contextlib.contextmanager
def told(which):
    """A failure inside says of which of many problems it is."""
    try:
        yield
    except BaseException as error:
        error.add_note(which)
        raise


def pairs(shape, count, rng):
    if shape == "chain":
        return [(i, i + 1) for i in range(count - 1)]
    if shape == "tree":
        return [(int(rng.integers(0, i)), i) for i in range(1, count)]
    if shape == "series-parallel":
        return [(i, i + 1) for i in range(count - 1)] + [(i, i + 2) for i in range(0, count - 2, 2)]
    return [(a, b) for a in range(count) for b in range(a + 1, count) if rng.random() < 0.5]


def random_problem(seed, most_nodes=8, most_strategies=6):
    """The seed decides the shape, how many pairs are forbidden (0 to 60 percent), whether there is a limit, and all numbers."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, most_nodes))
    sizes = rng.integers(1, most_strategies + 1, count)
    whole = seed % 3 > 0
    forbidden = (0.0, 0.1, 0.4, 0.6)[seed // 4 % 4]

    def numbers(shape, high):
        return rng.integers(0, high, shape).astype(float) if whole else rng.random(shape) * high - (high == 20) * 5

    nodes, edges = [], []
    for i, size in enumerate(sizes):
        start = int(rng.integers(0, count))
        nodes.append(Choices(f"n{i}", numbers(size, 20), numbers(size, 30), start, start + int(rng.integers(0, count))))
    for a, b in pairs(SHAPES[seed % 4], count, rng):
        costs = numbers((sizes[a], sizes[b]), 20)
        costs[rng.random(costs.shape) < forbidden] = np.inf
        edges.append(Edge(b, a, costs.T) if rng.random() < 0.3 else Edge(a, b, costs))
        if rng.random() < 0.1:
            edges.append(Edge(a, b, numbers((sizes[a], sizes[b]), 20)))
    most = sum(float(node.memory.max()) for node in nodes)
    limit = float(round(most * rng.uniform(0.15, 0.5))) if seed // 16 % 2 else None
    return Problem(tuple(nodes), tuple(edges), limit)


def layered_problem(seed, count=40, strategies=24, tight=0.4):
    """A larger one, as graphs of layers give them: a chain with skips, whose conversions cost what two layouts differ in."""
    rng = np.random.default_rng(seed)
    layouts = 5
    made, wanted = (rng.integers(0, layouts, (count, strategies)) for _ in range(2))
    move = rng.random((layouts, layouts))
    np.fill_diagonal(move, 0)
    share = rng.choice([0.125, 0.25, 0.5, 1.0], (count, strategies))
    nodes = tuple(
        Choices(f"layer{i}", rng.random() * (2 - share[i]), 1e9 * rng.random() * share[i], i, 2 * count - i)
        for i in range(count)
    )
    edges = [
        Edge(a, b, rng.random() * move[made[a]][:, wanted[b]])
        for step in (1, 4)
        for a in range(0, count - step, step)
        for b in [a + step]
    ]
    least, most = (sum(float(pick(node.memory)) for node in nodes) for pick in (np.min, np.max))
    return Problem(nodes, tuple(edges), least + tight * (most - least))
