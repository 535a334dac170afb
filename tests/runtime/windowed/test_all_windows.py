"""Every small one-dimensional window agrees exactly with the sequential operation, forward and adjoint.

The numbers are small integers in float64, so that sums are exact in any order. The exchange of all ranks is performed
in one process, from the plan and by the functions that the ranks use.
"""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from window_settings import Setting, all_settings, exchange_all, exchange_all_back, trades

from autopar.runtime import Grid, conv, simulate
from autopar.runtime.grid.exchange_plan import rows_in
from autopar.runtime.windowed.receptive_field import StridedWindow

SETTINGS = list(all_settings())
EVERY_TIME = 7  # of them one in seven, with all numbers of ranks


@functools.cache
def beyond():
    """The settings in which some rank reads rows from beyond its nearest neighbours."""
    return [setting for setting in SETTINGS if setting.beyond()]


def integers(*shape, seed):
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).double()


def sequential(n, window):
    """x, w, y, dy, dx and dw of the convolution of n rows."""
    x, w = integers(1, 1, n, seed=n).requires_grad_(), integers(1, 1, window.kernel, seed=7).requires_grad_()
    y = F.conv1d(x, w, None, window.stride, window.padding, window.dilation)
    dy = integers(*y.shape, seed=5)
    return x.detach(), w.detach(), y.detach(), dy, *torch.autograd.grad(y, (x, w), dy)


def cut(tensor, bounds):
    return list(tensor.split([b - a for a, b in itertools.pairwise(bounds)], 2))


def distributed(setting, x, w, dy):
    """y, dx, dw by the plan. Locally a row of the result is the product of w and a view of what the rank has."""
    window = setting.window
    plan = trades(setting.bounds, setting.wanted())
    ys, grads, dw = [], [], torch.zeros_like(w)
    for block, part in zip(exchange_all(cut(x, setting.bounds), 2, plan), cut(dy, setting.result_bounds), strict=True):
        rows = part.shape[2]
        assert block.shape[2] == (rows - 1) * window.stride + window.dilation * (window.kernel - 1) + 1
        read = block.as_strided((rows, window.kernel), (window.stride, window.dilation))
        ys.append(torch.mv(read, w.view(-1)))
        dw += part.view(1, -1) @ read
        grads.append(F.conv_transpose1d(part, w, None, window.stride, dilation=window.dilation))
    return torch.cat(ys).view(1, 1, -1), torch.cat(exchange_all_back(grads, 2, plan), 2), dw


def test_the_settings_are_those_that_were_counted():
    assert len(SETTINGS) == 12_974
    assert len(beyond()) == 2_918


@pytest.mark.parametrize("step", [EVERY_TIME, pytest.param(1, marks=pytest.mark.zoo)])
def test_all_of_them_agree_exactly(step):
    """Also those with more ranks than rows, and on one rank, which the count leaves out."""
    whole = {}
    for setting in SETTINGS[::step]:
        key = setting.n, setting.window
        if key not in whole:
            whole[key] = sequential(*key)
        x, w, y, dy, dx, dw = whole[key]
        ours = distributed(setting, x, w, dy)
        assert all(map(torch.equal, ours, (y, dx, dw))), setting


@settings(deadline=None, max_examples=30)
@given(setting=st.sampled_from(SETTINGS), far=st.deferred(lambda: st.sampled_from(beyond())))
def test_a_sample_of_them_on_ranks(setting, far):
    """The operator itself, with messages between ranks."""
    for one in (setting, far):
        x, w, y, dy, dx, dw = sequential(one.n, one.window)

        def rank_main(one=one, x=x, w=w, dy=dy):
            axis = Grid(str(one.ranks)).axes[0]
            window = one.window
            local, weight = (cut(x, one.bounds)[axis.index].clone().requires_grad_(), w.clone().requires_grad_())
            mine = conv(local, weight, None, window.stride, window.padding, window.dilation, over={2: (axis, one.n)})
            grads = torch.autograd.grad(mine, (local, weight), cut(dy, one.result_bounds)[axis.index])
            return mine.detach(), *grads

        ys, dxs, dws = zip(*simulate(one.ranks, rank_main), strict=True)
        assert torch.equal(torch.cat(ys, 2), y)
        assert torch.equal(torch.cat(dxs, 2), dx)
        assert torch.equal(sum(dws), dw)


def halos(n, ranks, window):
    """Rows per side of every rank that its own part lacks; negative where it has rows that it does not need."""
    setting = Setting(n, ranks, window)
    found = []
    for (own_low, own_high), ((low, high),) in zip(itertools.pairwise(setting.bounds), setting.wanted(), strict=True):
        found.append((own_low - max(low, 0), min(high, n) - own_high))
    return found


def test_published_halos():
    """The sizes of Hewett and Grady's appendix, and others worked out by hand."""
    assert halos(11, 3, StridedWindow(5, padding=2)) == [(0, 2), (2, 2), (2, 0)]
    assert halos(11, 3, StridedWindow(5)) == [(0, 3), (1, 1), (3, 0)]
    assert halos(11, 3, StridedWindow(2, 2)) == [(0, 0), (0, 0), (0, -1)]
    assert halos(20, 6, StridedWindow(2, 2)) == [(0, 0), (0, 0), (0, 1), (-1, 2), (-2, 1), (-1, 0)]
    assert halos(10, 4, StridedWindow(5, 2, 2)) == [(0, 2), (1, 1), (2, 1), (2, 0)]


def test_the_numbers_of_test_halo_mixin():
    """DistDL's, for n = 10 and pooling by 2 on 4 ranks: halos, needed rows of part and halo together, rows sent."""
    setting = Setting(10, 4, StridedWindow(2, 2))
    sides = halos(10, 4, StridedWindow(2, 2))
    lengths = [b - a for a, b in itertools.pairwise(setting.bounds)]
    assert [(max(0, low), max(0, high)) for low, high in sides] == [(0, 1), (0, 0), (0, 0), (0, 0)]
    needed = [(max(0, -low), length + max(0, low) + high) for length, (low, high) in zip(lengths, sides, strict=True)]
    assert needed == [(0, 4), (1, 3), (0, 2), (0, 2)]
    plan = trades(setting.bounds, setting.wanted())
    assert [[(to, rows_in(runs)) for to, runs in one.sends] for one in plan] == [[], [(0, 1)], [], []]
    assert [one.left for one in plan] == [(), ((0, 1),), (), ()]
