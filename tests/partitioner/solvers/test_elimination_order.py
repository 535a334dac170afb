"""The order of elimination is that of looking for the cheapest node each time, and does not take the square of the nodes."""

import math
import random

import pytest

from autopar.partitioner.solvers.elimination_order import cheapest_first


def graph(seed):
    draw = random.Random(seed)
    count = draw.randint(2, 25)
    around = {node: set() for node in range(count)}
    for _ in range(draw.randint(0, 3 * count)):
        a, b = draw.sample(range(count), 2)
        around[a].add(b)
        around[b].add(a)
    sizes = [draw.randint(1, 4) for _ in range(count)]
    return around, lambda near: math.prod(sizes[i] for i in near)


def plainly(around, weigh):
    while around:
        weight, node = min((weigh(near), node) for node, near in around.items())
        near = around.pop(node)
        for i in near:
            around[i] = (around[i] | near) - {i, node}
        yield weight, node


@pytest.mark.parametrize("kind", ["weights", "degrees"])
def test_the_cheapest_comes_first_and_of_equals_the_first(kind):
    for seed in range(60):
        (around, weigh), (again, _) = graph(seed), graph(seed)
        weigh = weigh if kind == "weights" else len
        assert list(cheapest_first(around, weigh)) == list(plainly(again, weigh))


@pytest.mark.parametrize("count", [200, 1600])
def test_each_node_is_weighed_a_few_times_however_many_there_are(count):
    around = {i: {j for j in (i - 1, i + 1) if 0 <= j < count} for i in range(count)}
    weighed = []

    def weigh(near):
        weighed.append(1)
        return len(near)

    assert len(list(cheapest_first(around, weigh))) == count
    assert len(weighed) <= 4 * count
