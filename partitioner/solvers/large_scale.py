"""The search in problems too large for the integer program: bound and choice, side by side on two cores, until time is up.

Bound: message passing (`trws_kernels.sweep`) at prices p for memory, which move by exponentiated gradient: with u the memory that
the preferred strategies use, and spare what the limit leaves above the least that all must use,

    p_t  <-  p_t exp(rate * mean of (u_t - limit) / spare_t)        (Kivinen and Warmuth 1997, Information and Computation)

so that prices stay positive, gather at the few times that bind, and need no scale; the rate falls when the bound stands still.

Choice: what the messages prefer, settled in random forests at the prices without regard to the limit; prices are raised where
memory is missing until it fits; then forests are settled within the limit, at prices falling from the dual's to none. The best
choice is left again, into what misses the limit, and the way back repeated until time is up.

Both are threads: the kernels hold no interpreter lock. Once the prices are settled, the thread of the bound searches as well.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from autopar.partitioner.problem import Array, Ints, Problem, Progress, evaluate, relative_gap
from autopar.partitioner.solvers import forest_neighbourhoods, trws_kernels
from autopar.partitioner.solvers.flat_problem import Flat, flatten

_SIZES = np.array([5, 15, 40, 100, 300, 1000], dtype=np.int64)
_LARGE_SIZES = np.array([300, 3000, 30000], dtype=np.int64)
_RATE, _LEAST_RATE = 0.3, 1e-3
_TURNS = 200
"""So often what is missing is taken from one forest after the other, before prices are raised for all at once."""
_BISECTIONS, _MIXES = 7, 4
_SETTLED = 0.4
"""The part of the time after which the prices must do for the search."""


@dataclass(slots=True, eq=False)
class _SharedState:
    """What the threads share, under a lock: the best choice and cost, the bound, and the prices and messages that prove it."""

    flat: Flat
    deadline: float
    progress: Progress
    prices: Array
    messages: Array
    bound: float = -np.inf
    choice: Ints | None = None
    cost: float = np.inf
    nearest: Ints | None = None
    missing: float = np.inf
    ready: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def over(self) -> bool:
        """Whether time is up, or the bound is met."""
        met = bool(np.isfinite(self.cost)) and relative_gap(self.cost, self.bound) == 0
        return met or time.perf_counter() > self.deadline

    def raise_bound(self, bound: float, prices: Array, messages: Array) -> None:
        """Keep a higher bound, and what proves it."""
        with self.lock:
            if bound > self.bound:
                self.bound, self.prices, self.messages = bound, prices.copy(), messages.copy()
                self.progress(self.cost, self.bound)

    def offer(self, choice: Ints) -> bool:
        """Keep a choice that fits and is cheaper; say whether it was."""
        cost = float(trws_kernels.value(self.flat, choice))
        room = self.flat.room - trws_kernels.held(self.flat, choice)
        with self.lock:
            better = cost < min(self.cost, self.flat.huge / 2) and room.min(initial=0.0) >= 0
            if cost < self.flat.huge / 2 and -room.min(initial=0.0) < self.missing:
                self.nearest, self.missing = choice.copy(), -float(room.min(initial=0.0))
            if better:
                self.choice, self.cost = choice.copy(), cost
                self.progress(self.cost, self.bound)
            return bool(better)


@dataclass(frozen=True, slots=True, eq=False)
class LargeResult:
    """The best choice (None for none) and its cost, a proven bound, and the peak and choice that come nearest to the limit."""

    choice: tuple[int, ...] | None
    cost: float
    bound: float
    nearest: tuple[float, tuple[int, ...], bool]


def solve_large(problem: Problem, deadline: float, progress: Progress = lambda cost, bound: None) -> LargeResult:
    """The best choice that two threads find until the deadline, and the best bound. `progress` is told both, as they change."""
    flat = flatten(problem)
    state = _SharedState(flat, deadline, progress, np.zeros(flat.room.size), np.zeros(flat.messages))
    helper = threading.Thread(target=_search, args=(state, 1), daemon=True)
    helper.start()
    _ascend(state)
    _search(state, 2)
    helper.join()
    if state.choice is None:  # time was up before anybody looked
        hasty = np.zeros(flat.start.size - 1, dtype=np.int64)
        trws_kernels.decode(flat, priced(flat, state.prices), state.messages, hasty)
        state.offer(hasty)
    choice = None if state.choice is None else tuple(state.choice.tolist())
    nearest = () if state.nearest is None else tuple(state.nearest.tolist())
    peak = evaluate(problem, nearest)[1] if nearest else math.inf
    return LargeResult(choice, state.cost, min(state.bound, state.cost), (peak, nearest, False))


def priced(flat: Flat, prices: Array) -> Array:
    """The costs of all strategies with the price of their memory."""
    total = np.concatenate([[0.0], np.cumsum(prices)])
    dear = np.repeat(total[flat.last] - total[flat.first], np.diff(flat.start))
    costs: Array = flat.cost + flat.memory * dear
    return costs


def proven(flat: Flat, prices: Array, messages: Array) -> float:
    """The bound at these prices and messages, rounding taken off."""
    paid = float(prices @ flat.room)
    bound = float(trws_kernels.certify(flat, priced(flat, prices), messages)) - paid
    return bound - 1e-15 * prices.size * paid


def _ascend(state: _SharedState) -> None:
    """Raise the bound until the rate is spent or time is up; `ready` is set as soon as the prices are of use."""
    flat, began = state.flat, time.perf_counter()
    messages, prefer = np.zeros(flat.messages), np.zeros(flat.start.size - 1, dtype=np.int64)
    for _ in range(5):
        bound = float(trws_kernels.sweep(flat, flat.cost, messages, prefer))
    state.raise_bound(proven(flat, np.zeros(flat.room.size), messages), np.zeros(flat.room.size), messages)
    spare = np.maximum(flat.room - trws_kernels.held(flat, _cheapest_memory(flat)), 1e-3 * flat.room)
    size = max(abs(bound), 1e-6 * float(np.abs(flat.cost[flat.cost < flat.huge / 2]).max(initial=1.0)))
    powers = (
        np.log(np.full(flat.room.size, size) / (max(flat.room.size, 1) * flat.room)) if flat.room.size else np.zeros(0)
    )
    best, best_powers, best_messages = -np.inf, powers, messages.copy()
    slope, rate, stale = np.zeros(flat.room.size), _RATE, 0
    share = _SETTLED * (state.deadline - began)
    while not state.over() and rate > _LEAST_RATE:
        prices = np.exp(powers)
        bound = float(trws_kernels.sweep(flat, priced(flat, prices), messages, prefer)) - float(prices @ flat.room)
        stale = 0 if bound > best + 1e-5 * abs(best) else stale + 1
        if bound > best or not np.isfinite(best):
            best, best_powers, best_messages = bound, powers, messages.copy()
        if time.perf_counter() - began > share or (rate < 0.5 * _RATE and not state.ready.is_set()):
            share += 0.04 * (state.deadline - began)
            state.raise_bound(proven(flat, np.exp(best_powers), best_messages), np.exp(best_powers), best_messages)
            state.ready.set()
        over = (trws_kernels.roughly_held(flat, prefer) - flat.room) / spare
        slope = 0.7 * slope + 0.3 * np.clip(over, -1, 1)
        powers = np.clip(powers + rate * slope, -60.0, 600.0)
        if stale >= 20:
            powers, messages, slope = best_powers, best_messages.copy(), np.zeros(flat.room.size)
            rate, stale = 0.7 * rate if flat.room.size else 0.0, 0
    state.raise_bound(proven(flat, np.exp(best_powers), best_messages), np.exp(best_powers), best_messages)
    state.ready.set()


def _cheapest_memory(flat: Flat) -> Ints:
    """Each node's strategy that holds least."""
    sizes = np.diff(flat.start)
    order = np.lexsort((flat.memory, np.repeat(np.arange(sizes.size), sizes)))
    return np.asarray(order[flat.start[:-1]] - flat.start[:-1], dtype=np.int64)


def _search(state: _SharedState, seed: int) -> None:
    """Look for choices until time is up: from the messages first, then from the best known."""
    while not state.ready.wait(0.05):
        if state.over():
            return
    flat, random = state.flat, np.random.default_rng(seed)
    forests = _Forests(state, forest_neighbourhoods.space(flat, int(_LARGE_SIZES.max())), random)
    fresh = True
    while not state.over():
        with state.lock:
            prices, messages = state.prices.copy(), state.messages.copy()
            choice = None if state.choice is None else state.choice.copy()
        if fresh:
            forests.scale(prices, messages)
        if fresh or choice is None:
            choice = np.zeros(flat.start.size - 1, dtype=np.int64)
            trws_kernels.decode(flat, priced(flat, prices), messages, choice)
        forests.relax(choice, prices, 240 if fresh else int(random.choice([5, 20, 80])))
        if forests.fit(choice, prices):
            forests.tighten(choice, prices)
        fresh = state.choice is None


@dataclass(slots=True, eq=False)
class _Forests:
    """One thread's way to change choices, in place: random forests are settled, the rest fixed; `stamp` counts them."""

    state: _SharedState
    forest: forest_neighbourhoods.Forest
    random: np.random.Generator
    stamp: int = 0

    def seed(self) -> int:
        """For the compiled functions, which draw for themselves."""
        return int(self.random.integers(2**31))

    def improve(
        self, choice: Ints, room: Array, prices: Array, weight: float, sizes: Ints, rounds: int, hard: bool, flat: Flat
    ) -> None:
        """See `forest_neighbourhoods.improve`."""
        self.stamp = forest_neighbourhoods.improve(
            flat, self.forest, choice, room, prices, weight, sizes, rounds, self.seed(), self.stamp, hard
        )

    def scale(self, prices: Array, messages: Array) -> None:
        """Offer choices made at multiples of the prices, the least that fits being bisected.

        A price of its own for each node, a little off, lets equal parts of a model, which are indifferent at the same price,
        go over to strategies that hold less one after the other.
        """
        state, flat = self.state, self.state.flat
        off = np.repeat(self.random.uniform(0.9, 1.1, flat.start.size - 1), np.diff(flat.start))
        noisy = flat._replace(memory=flat.memory * off)
        messages, factor, low, high = messages.copy(), 1.0, 0.7, 0.0
        choice, prefer = (np.zeros(flat.start.size - 1, dtype=np.int64) for _ in range(2))
        cheap, dear = choice[:0], choice[:0]
        for _ in range(_BISECTIONS if flat.room.size else 0):
            own = priced(noisy, factor * prices)
            for _ in range(8):
                if state.over():
                    return
                trws_kernels.sweep(noisy, own, messages, prefer)
            trws_kernels.decode(noisy, own, messages, choice)
            self.relax(choice, factor * prices, 120, noisy)
            state.offer(choice)
            if _fits(flat, choice):
                high, dear = factor, choice.copy()
            else:
                low, cheap = factor, choice.copy()
            factor = 0.5 * (low + high) if high else 1.15 * factor
        for _ in range(_MIXES if cheap.size and dear.size else 0):
            self.tighten(_mix(flat, cheap, dear, self.random), prices, 1)

    def relax(self, choice: Ints, prices: Array, rounds: int, flat: Flat | None = None) -> None:
        """Settle forests at the prices, whatever they use."""
        flat = flat or self.state.flat
        room = flat.room - trws_kernels.roughly_held(flat, choice)
        sizes = _LARGE_SIZES if rounds > 100 else _SIZES
        for _ in range(4):
            if not self.state.over():
                self.improve(choice, room - 1e30, prices, 1.0, sizes, rounds // 4 + 1, False, flat)

    def fit(self, choice: Ints, prices: Array) -> bool:
        """Raise prices where memory is missing, and settle, until it fits; whether it does."""
        state, flat, raised = self.state, self.state.flat, prices.copy()
        mean = float(prices.mean()) if prices.size else 0.0
        for turn in range(400):
            room = flat.room - trws_kernels.roughly_held(flat, choice)
            if room.min(initial=0.0) >= 0:
                return True
            if state.over():
                break
            if turn < _TURNS:
                self.stamp = forest_neighbourhoods.relieve(
                    flat, self.forest, choice, room, prices, 20, 20, self.seed(), self.stamp
                )
            else:
                short = np.where(room < 0, np.minimum(0.02 - 3.0 * room / flat.room, 0.2), 0.0)
                raised = raised * (1 + short) + short * mean
                self.improve(choice, room, raised, 1.0, _SIZES, 100, False, flat)
        state.offer(choice)
        return False

    def tighten(self, choice: Ints, prices: Array, turns: int = 1000) -> None:
        """Settle forests within the limit, at falling prices, until that brings little."""
        state, flat = self.state, self.state.flat
        room = flat.room - trws_kernels.held(flat, choice)
        cost = float(trws_kernels.value(flat, choice))
        for _ in range(turns):
            if state.over():
                break
            before = cost
            for weight in (1.0, 0.7, 0.4, 0.1):
                for _ in range(5):
                    if not state.over():
                        self.improve(choice, room, prices, weight, _SIZES, 400, True, flat)
            room = flat.room - trws_kernels.held(flat, choice)  # what rounding has left
            cost = float(trws_kernels.value(flat, choice))
            state.offer(choice)
            if cost > before - 1e-4 * abs(before):
                break


def _fits(flat: Flat, choice: Ints) -> bool:
    return bool((trws_kernels.roughly_held(flat, choice) <= flat.room).all())


def _mix(flat: Flat, cheap: Ints, dear: Ints, random: np.random.Generator) -> Ints:
    """A choice between one that misses the limit and one that meets it: the second in as few nodes as make it fit, taken
    breadth first, among the nodes where they differ, from a random one (so that few edges join what was taken and what not).
    """
    differs, order = cheap != dear, list[int]()
    for seed in random.permutation(np.flatnonzero(differs)).tolist():
        front = [seed] if differs[seed] else []
        differs[seed] = False
        for i in front:
            for e in flat.near_edge[flat.near_at[i] : flat.near_at[i + 1]].tolist():
                j = int(flat.b[e] if flat.a[e] == i else flat.a[e])
                if differs[j]:
                    differs[j] = False
                    front.append(j)
        order += front
    least, most = 0, len(order)
    while least < most:
        middle, mixed = (least + most) // 2, cheap.copy()
        mixed[order[:middle]] = dear[order[:middle]]
        fits = _fits(flat, mixed)
        least, most = (least, middle) if fits else (middle + 1, most)
    mixed = cheap.copy()
    mixed[order[:most]] = dear[order[:most]]
    return mixed
