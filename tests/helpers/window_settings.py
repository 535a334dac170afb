"""All small one-dimensional windows, and an exchange of all ranks performed in one process from the same plan."""

import itertools
from dataclasses import dataclass

from autopar.ir.layout import even_bounds
from autopar.runtime.grid.exchange_plan import plan_exchange
from autopar.runtime.primitives.halo import arrive, arrive_back, depart, depart_back
from autopar.runtime.windowed.fused_halo import route
from autopar.runtime.windowed.receptive_field import StridedWindow


@dataclass(frozen=True)
class Setting:
    """A window over n rows on some ranks, both operand and result cut evenly."""

    n: int
    ranks: int
    window: StridedWindow

    @property
    def result(self):
        return self.window.extent(self.n)

    @property
    def bounds(self):
        return even_bounds(self.n, self.ranks)

    @property
    def result_bounds(self):
        return even_bounds(self.result, self.ranks)

    def wanted(self, mode="zeros"):
        """What every rank wants, as the runtime plans it."""
        return route((self.window,), (mode,), self.n, self.result_bounds).fetched

    def beyond(self):
        """Whether some rank reads rows from beyond its nearest neighbours, from the definition of the window."""
        k, s, p, d = self.window.kernel, self.window.stride, self.window.padding, self.window.dilation
        for i, (a, b) in enumerate(itertools.pairwise(self.result_bounds)):
            low, high = max(0, s * a - p), min(self.n - 1, s * (b - 1) + d * (k - 1) - p)
            if low < self.bounds[max(0, i - 1)] or high >= self.bounds[min(self.ranks, i + 2)]:
                return True
        return False


def windows():
    """k <= 7, s <= 4, d <= 3, p <= k / 2."""
    for k, s, d in itertools.product(range(1, 8), range(1, 5), range(1, 4)):
        yield from (StridedWindow(k, s, p, d) for p in range(k // 2 + 1))


def all_settings():
    """n <= 24 on 2 to 6 ranks, with at least a row of operand and result for every rank."""
    for window, n, ranks in itertools.product(windows(), range(1, 25), range(2, 7)):
        if ranks <= n and ranks <= window.extent(n):
            yield Setting(n, ranks, window)


def trades(bounds, wanted):
    return [plan_exchange(rank, tuple(bounds), tuple(wanted)) for rank in range(len(wanted))]


def exchange_all(parts, dim, plan, value=0.0):
    """What every rank has after the exchange, the messages of all being delivered here."""
    leaving = [depart(x, dim, mine, value) for x, mine in zip(parts, plan, strict=True)]
    _deliver(leaving)
    for (y, _, recvs), mine in zip(leaving, plan, strict=True):
        arrive(y, dim, mine, recvs)
    return [y for y, _, _ in leaving]


def exchange_all_back(grads, dim, plan):
    leaving = [depart_back(grad, dim, mine) for grad, mine in zip(grads, plan, strict=True)]
    _deliver(leaving)
    for (dx, _, recvs), mine in zip(leaving, plan, strict=True):
        arrive_back(dx, dim, mine, recvs)
    return [dx for dx, _, _ in leaving]


def _deliver(leaving):
    sent = 0
    for rank, (_, sends, _) in enumerate(leaving):
        for to, message in sends.items():
            assert leaving[to][2][rank].shape == message.shape
            leaving[to][2][rank].copy_(message)
            sent += 1
    assert sent == sum(len(recvs) for _, _, recvs in leaving)
