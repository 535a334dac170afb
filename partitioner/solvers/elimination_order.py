"""The order in which the nodes of a problem are eliminated, worked out before any table is computed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator


def cheapest_first(around: dict[int, set[int]], weigh: Callable[[set[int]], int]) -> Iterator[tuple[int, int]]:
    """(weight, node): always the node whose neighbours weigh least, the first of equals, which become neighbours of each other.

    Uses up `around`. What is on the heap with another weight than the node's own is out of date.
    """
    weights = {node: weigh(near) for node, near in around.items()}
    heap = [(weight, node) for node, weight in weights.items()]
    heapq.heapify(heap)
    while around:
        weight, node = heapq.heappop(heap)
        if weights.get(node) != weight:
            continue
        del weights[node]
        near = around.pop(node)
        for i in near:
            around[i] = (around[i] | near) - {i, node}
            if weights[i] != (new := weigh(around[i])):
                weights[i] = new
                heapq.heappush(heap, (new, i))
        yield weight, node
