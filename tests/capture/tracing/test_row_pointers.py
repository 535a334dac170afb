"""Whole numbers of tensors that say where a slice begins: three steps are eager's; any other look at them is refused by line."""

import pytest
import torch
from capture_refused import line_of, refused
from compiling import QUICK
from shared_captures import these_rows
from torch import nn
from trained import Together, assert_trains_the_same

import autopar
from autopar.errors import ProgramMismatch
from autopar.runtime import rows_from, within


class Net(nn.Module):
    """A Linear, a queue of 12 columns as MoCo has it, another of rows, and where they go on."""

    def __init__(self, way):
        super().__init__()
        self.fc, self.way = nn.Linear(6, 6), way
        self.register_buffer("queue", torch.randn(6, 12))
        self.register_buffer("rows", torch.randn(12, 6))
        self.register_buffer("at", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("place", torch.full((), 4, dtype=torch.int32))

    def forward(self, x):
        return self.way(self, self.fc(x), x)


def moco(net, h, x):
    loss = (h @ net.queue.clone().detach()).logsumexp(1).mean()
    with torch.no_grad():
        ptr = int(net.at)
        assert net.queue.shape[1] % len(h) == 0
        net.queue[:, ptr : ptr + h.shape[0]] = h.T
        ptr = (ptr + h.shape[0]) % net.queue.shape[1]
        net.at[0] = ptr
    return loss


def by_item(net, h, x):
    ptr, n = net.at.item(), x.shape[0]
    net.rows[ptr : ptr + n, 1:4] = h[:, 1:4].detach()
    net.at.fill_((ptr + n) % 12)
    net.place.copy_(torch.tensor(ptr // 2))
    return (h @ net.rows.T).logsumexp(1).mean()


def one_row(net, h, x):
    row = int(net.place)
    net.rows[row] = h.detach().mean(0)
    net.rows[row + 1, ...] = 0.5
    net.queue[..., None, row - 1] = h.detach()[:1].T
    net.place.sub_(1)
    return (h * net.rows[row] + net.queue[:, row - 1] * (1 + row)).square().mean()


def window(net, h, x):
    first = int(net.place) * 2 - 3 * 2
    seen = net.rows[first : first + 4]
    if isinstance(first, int) and isinstance(net.place.item(), int | float):
        seen = seen * 2
    net.place[...] = -(first * -1) % 3 + 3
    return (h * seen.view(4, 6)).square().mean() + (first - 2) * h.sum()


def with_gradients(net, h, x):
    table, first = torch.zeros(8, 6, dtype=h.dtype), int(net.at) // 4
    table[first + 1 : first + 5] = h
    net.at.add_(4)
    return (table[first : first + 4] * h).square().sum()


def of_an_input(net, h, x):
    first = int(x.argmax() % 3)
    return (h * net.rows[first + 1 : first + 5]).sum() + h.sum() * first


FORMS = [moco, by_item, one_row, window, with_gradients, of_an_input]


def test_a_slice_may_begin_where_a_buffer_says():
    torch.manual_seed(0)
    model = Together({way.__name__: Net(way) for way in FORMS}).double()
    inputs = {"x": torch.randn(4, 6, dtype=torch.float64)}
    with these_rows():
        one = autopar.compile(model, inputs, grid="2", machine=QUICK)
    assert "int" not in globals()
    assert_trains_the_same(one, model, inputs, steps=3)


def compares(net, h, x):
    ptr = int(net.at)
    return h.sum() if ptr + 4 > 12 else h.mean()  # looks


def counts(net, h, x):
    return sum(h.mean() for _ in range(int(net.at)))  # looks


def open_ended(net, h, x):
    return (h.mean(0) * net.rows[int(net.at) :]).sum()  # looks


def two_numbers(net, h, x):
    return (h.mean(0) * net.rows[int(net.at) : int(net.place)]).sum()  # looks


def a_shape(net, h, x):
    return h.sum() * torch.ones(int(net.place)).sum()  # looks


def a_key(net, h, x):
    return h.sum() * {0: 1.0, 4: 2.0}.get(int(net.place), 3.0)  # looks


def a_text(net, h, x):
    return h.sum() * len(f"{int(net.place):3d}")  # looks


def kept(net, h, x):
    first = getattr(net, "first", 0)  # looks
    net.first = int(net.at)
    return (h * net.rows[first : first + 4]).sum()


def float_of_it(net, h, x):
    return h.sum() * float(net.place)  # looks


@pytest.mark.parametrize("way", [compares, counts, open_ended, two_numbers, a_shape, a_key, a_text, float_of_it, kept])
def test_any_other_look_is_refused_at_its_line(way):
    text = refused(lambda: Net(way).double(), {"x": torch.ones(4, 6, dtype=torch.float64)})
    assert text.startswith(line_of(way, "# looks").partition(" ")[0])
    if way is not kept:
        assert "forward depends on the values of a tensor" in text
        assert "of a tensor that is no constant" in text


def written_through(net, h, x):
    ptr = int(net.at)
    net.rows[ptr : ptr + 4].copy_(h.detach())  # writes
    return (h * net.rows[:4]).sum()


def added_to(net, h, x):
    net.rows[int(net.at)] += 1  # writes
    return (h * net.rows[:4]).sum()


def read_late(net, h, x):
    ptr = int(net.at)
    old = net.rows[ptr : ptr + 4]
    net.rows[ptr : ptr + 4] = h.detach()
    return (h * old).sum()  # reads


@pytest.mark.parametrize("way", [written_through, added_to, read_late])
def test_what_would_be_a_view_is_refused(way):
    text = refused(lambda: Net(way).double(), {"x": torch.ones(4, 6, dtype=torch.float64)})
    assert "a slice at a pointer is " in text
    assert "x[ptr : ptr + n] = y" in text.partition("fix:")[2]


@pytest.mark.parametrize("first", [-1, 9])
def test_a_slice_that_would_be_shorter_is_an_error_of_the_step(first):
    with pytest.raises(ProgramMismatch, match=rf"the slice {first}:{first + 4}: it would be shorter: 12 rows"):
        rows_from(torch.tensor(first), 4, 12)


@pytest.mark.parametrize("numbers", [[-1, 2], [0, 5]])
def test_a_count_that_would_be_longer_is_an_error_of_the_step(numbers):
    with pytest.raises(
        ProgramMismatch, match=rf"there are 5 rows, and the numbers of the step are from {numbers[0]} to {numbers[1]}"
    ):
        within(torch.tensor(numbers), 5)
