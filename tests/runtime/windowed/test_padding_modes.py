"""Padding by mirroring, repeating and going round, over split dims, equals torch's on the whole tensor."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from window_runs import MODES, compare, layouts, random
from window_settings import Setting, exchange_all, trades

from autopar.errors import ConfigError
from autopar.runtime import Conv, Grid, Pad, conv, pad, simulate
from autopar.runtime.grid.exchange_plan import RowRun
from autopar.runtime.windowed.receptive_field import Shift, inside, shown, shown_row


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 9), data=st.data(), mode=st.sampled_from(MODES[1:]))
def test_rows_shown_are_those_of_every_position(n, data, mode):
    """The interval arithmetic against the definition, position by position."""
    most = {"reflect": n - 1, "circular": n, "replicate": 2 * n}[mode]
    start = data.draw(st.integers(-most, n + most))
    stop = data.draw(st.integers(start, n + most))
    pieces = shown((start, stop), n, mode)
    rows = [row for low, high in pieces for row in range(low, high)]
    assert sorted(rows) == sorted({shown_row(q, n, mode) for q in range(start, stop)})
    if mode == "circular" and stop - start <= n:
        assert rows == [q % n for q in range(start, stop)]
    before, (low, high), after = inside((start, stop), n)
    assert [sum(q < 0 for q in range(start, stop)), sum(q >= n for q in range(start, stop))] == [before, after]
    assert list(range(low, high)) == [q for q in range(start, stop) if 0 <= q < n]


def test_every_small_padding_fetches_what_torch_shows():
    """All ends of up to n rows, n <= 7, on 1 to 5 ranks: the rows that the plan brings contain torch's, in place."""
    count = 0
    for n, ranks, mode in itertools.product(range(1, 8), range(1, 6), MODES[1:]):
        most = {"reflect": n - 1, "circular": n, "replicate": n}[mode]
        for low, high in itertools.product(range(most + 1), repeat=2):
            setting = Setting(n, ranks, Shift(low, high))
            x = torch.arange(n, dtype=torch.float64).view(1, 1, n)
            parts = list(x.split([b - a for a, b in itertools.pairwise(setting.bounds)], 2))
            got = exchange_all(parts, 2, trades(setting.bounds, setting.wanted(mode)))
            wanted = F.pad(x, (low, high), mode).split([b - a for a, b in itertools.pairwise(setting.result_bounds)], 2)
            assert all(set(a.tolist()[0][0]) == set(b.tolist()[0][0]) for a, b in zip(got, wanted, strict=True))
            count += 1
    assert count == 5 * sum((n) ** 2 + 2 * (n + 1) ** 2 for n in range(1, 8))


def padded_convolution(x, layers, over):
    (one,) = layers
    return conv(x, one.weight, one.bias, one.stride, one.padding, one.dilation, one.groups, over, one.mode)


@st.composite
def padded_convolutions(draw):
    spatial = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(MODES))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(spatial))

    kernel, stride, dilation, padding = numbers(1, 4), numbers(1, 3), numbers(1, 2), numbers(0, 3)
    least = [
        max(d * (k - 1) + 1 - 2 * p, {"reflect": p + 1, "circular": p}.get(mode, 1), 1)
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    shape = tuple(draw(st.integers(n, n + 5)) for n in least)
    groups = draw(st.sampled_from((1, 2)))
    weight = random(4, 2 // groups, *kernel, seed=1).requires_grad_()
    bias = random(4, seed=2).requires_grad_() if draw(st.booleans()) else None
    return (
        (draw(st.integers(1, 2)), 2, *shape),
        Conv(weight, bias, stride, padding, dilation, groups, mode),
        draw(layouts(spatial)),
    )


@settings(deadline=None, max_examples=40)
@given(case=padded_convolutions())
def test_convolutions_in_every_mode(case):
    """In one to three dims, one to three of them split, with corners, empty parts and mirrors held by other ranks."""
    shape, layer, layout = case
    compare(random(*shape), [layer], layout, padded_convolution)


def test_windows_that_skip_the_last_rows_of_a_ring():
    """Strides that leave rows at the end unread, in a dim that is not split beside one that is."""
    count = 0
    for mode, n, kernel, stride, padding in itertools.product(MODES, (2, 3, 5, 7), (2, 3), (1, 2, 3), (1, 2)):
        if padding <= {"reflect": n - 1}.get(mode, n):
            layer = Conv(random(1, 1, kernel, 1, seed=1).requires_grad_(), None, (stride, 1), (padding, 0), 1, 1, mode)
            compare(random(1, 1, n, 2), [layer], ((3,), [2], [None]), padded_convolution)
            count += 1
    assert count > 160


@st.composite
def paddings(draw):
    spatial = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(MODES))
    shape, numbers = [], []
    for _ in range(spatial):
        n = draw(st.integers(1, 7))
        cuts = draw(st.sampled_from(((0, 0), (0, 0), (1, 0), (0, 2), (1, 1)) if n > 2 else ((0, 0),)))
        most = {"reflect": n - 1, "circular": n - sum(cuts)}.get(mode, 4)  # a ring is closed without what is cut off
        shape.append(n)
        numbers = [*(-cut or draw(st.integers(0, most)) for cut in cuts), *numbers]
    return (1, 2, *shape), Pad(tuple(numbers), mode, draw(st.sampled_from((0.0, 2.5)))), draw(layouts(spatial))


@settings(deadline=None, max_examples=40)
@given(case=paddings())
def test_padding_alone(case):
    shape, layer, layout = case

    def ours(x, layers, over):
        return pad(x, layers[0].padding, layers[0].mode, layers[0].constant, over)

    compare(random(*shape), [layer], layout, ours)


def test_the_other_end_comes_in_one_message():
    """Of 8 rows on 2 ranks, going round by 1, each rank wants two rows of the other, at both ends of its own."""
    setting = Setting(8, 2, Shift(1, 1))
    assert setting.wanted("circular") == (((7, 8), (0, 4)), ((4, 8), (0, 1)))
    wanted = (((7, 8), (0, 5)), ((3, 8), (0, 1)))  # as of a convolution of kernel 3
    plan = trades(setting.bounds, wanted)
    assert plan[0].recvs == ((1, (RowRun(3, 0, 1), RowRun(0, 5, 1))),)

    def rank_main():
        axis = Grid("2").axes[0]
        x = torch.arange(8.0)[4 * axis.index : 4 * axis.index + 4].view(1, 1, 4)
        return conv(x, torch.ones(1, 1, 3), padding=1, over={2: (axis, 8)}, mode="circular").flatten().tolist()

    assert simulate(2, rank_main) == [[8, 3, 6, 9], [12, 15, 18, 13]]


@pytest.mark.parametrize(("mode", "p"), [("reflect", 4), ("circular", 5)])
@pytest.mark.parametrize("split", [True, False])
def test_more_padding_than_there_is_to_show_is_refused(mode, p, split):
    def rank_main():
        axis = Grid("2").axes[0]
        over = {2: (axis, 4)} if split else {3: (axis, 6)}
        x = torch.ones(1, 1, 2, 6) if split else torch.ones(1, 1, 4, 3)
        return conv(x, torch.ones(1, 1, 3, 1), padding=(p, 0), over=over, mode=mode)

    with pytest.raises(ConfigError, match=f"padded by {p}"):
        simulate(2, rank_main)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="modes are zeros, reflect"):
        simulate(1, lambda: pad(torch.ones(1, 1, 4), (1, 1), "mirror", over={2: (Grid("1").axes[0], 4)}))
