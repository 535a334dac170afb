"""Parameters, results and views that are written where autograd does not record it: what is read afterwards keeps its gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from capture_refused import refused
from torch import nn
from trained import assert_all_train_the_same


class Net(nn.Module):
    """Two Linears with one weight of their own each, a frozen copy of the first, and two frozen vectors."""

    def __init__(self, write):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.b.weight
        self.slow = copy.deepcopy(self.a).requires_grad_(False)
        self.u = nn.Parameter(F.normalize(torch.randn(6), dim=0), requires_grad=False)
        self.v = nn.Parameter(F.normalize(torch.randn(6), dim=0), requires_grad=False)
        self.write = write

    def forward(self, x):
        return self.write(self, x).square().mean()


def standardised(net, x):
    with torch.no_grad():
        net.b.weight.sub_(net.b.weight.mean(1, keepdim=True))
        net.b.weight[:2].div_(net.b.weight[:2].std(1, keepdim=True))
    return net.tied(net.b(net.a(x)))


def clamped_data(net, x):
    net.b.weight.data.clamp_(-0.2, 0.2)
    net.b.bias.data = net.b.bias.data * 0.5
    return net.b(net.a(x)).tanh()


def clamped_after(net, x):
    y = net.a(x)
    with torch.no_grad():
        net.a.weight.clamp_(-0.2, 0.2)
    return y


def written_twice(net, x):
    y = net.b(net.a(x))
    for _ in range(2):
        with torch.no_grad():
            net.b.bias.mul_(0.5)
            net.b.bias[2:4] = 0.25
        y = y * net.b(x) + net.b.bias.view(2, 3).sum(0).repeat(2)
    return y


def power_iteration(net, x):
    with torch.no_grad():
        net.v.copy_(F.normalize(net.b.weight.t() @ net.u, dim=0))
        net.u.data = F.normalize(net.b.weight.data @ net.v.data, dim=0)
    return F.linear(net.a(x), net.b.weight / (net.u @ (net.b.weight @ net.v)))


def momentum(net, x):
    with torch.no_grad():
        for slow, fast in zip(net.slow.parameters(), net.a.parameters(), strict=True):
            slow.data = slow.data * 0.9 + fast.data * 0.1
        key = net.slow(x)
    return net.a(x) - key


def result_written(net, x):
    h = net.a(x)
    y = net.b(h) + 1
    with torch.no_grad():
        y.clamp_(-1, 1)
        y[:, 1:3] += h[:, 1:3]
    return y * h


def result_data(net, x):
    y = net.b(net.a(x)) + 1
    y.data.mul_(0.5)
    y.detach().add_(1)
    return y + x


def views_written(net, x):
    y = net.b(net.a(x)) * 2
    before = y.flatten()
    with torch.no_grad():
        before[3:9].mul_(0.5)
    after = y.t()
    with torch.no_grad():
        after.add_(0.25)
    return y * after.t() + before.unflatten(0, y.shape)


def read_before_and_after(net, x):
    y = net.b(net.a(x)) + 1
    z = y * x
    y.add_(x)
    with torch.no_grad():
        fresh = torch.zeros_like(y)
        fresh[0] = y[0]
        w = y.detach().clone()
        w.mul_(2)
    return z + y + fresh + w


def infinities_replaced(net, x):
    y = net.b(net.a(x)).masked_fill(x > 1, torch.inf)
    z = y / 1
    with torch.no_grad():
        y.clamp_(-1, 1)
        z[z.isinf()] = 0.5
    return y * net.a(x) + z


FORMS = [
    infinities_replaced,
    standardised, clamped_data, clamped_after, written_twice, power_iteration, momentum, result_written, result_data,
    views_written, read_before_and_after,
]  # fmt: skip


def test_losses_gradients_and_parameters_are_eagers_after_three_steps():
    assert_all_train_the_same(lambda: {write.__name__: Net(write) for write in FORMS})


def data_after_use(net, x):
    y = net.a(x)
    z = y * y
    y.data.clamp_(-1, 1)
    return z + y


def weight_data_after_use(net, x):
    y = net.b(net.a(x))
    net.b.weight.data.clamp_(-1, 1)
    return y


def data_of_an_output_that_backward_reads(net, x):
    y = net.a(x).tanh()
    y.data.add_(1)
    return y


def recorded_after_unrecorded(net, x):
    y = net.a(x) + 1
    with torch.no_grad():
        y.clamp_(-1, 1)
    y.mul_(2)
    return y


@pytest.mark.parametrize(
    ("write", "given"),
    [
        (data_after_use, "is read with a gradient, and then written where autograd does not see it"),
        (weight_data_after_use, "is read with a gradient, and then written where autograd does not see it"),
        (data_of_an_output_that_backward_reads, "the result of tanh, which its backward reads, is written"),
        (recorded_after_unrecorded, "is written in place with a gradient after it was written without one"),
    ],
)
def test_writes_behind_the_back_of_backward_are_refused(write, given):
    text = refused(lambda: Net(write).double(), {"x": torch.ones(4, 6, dtype=torch.float64)})
    assert text.startswith("test_unrecorded_writes.py:")
    assert given in text.partition("rule:")[0]
    assert "y = y.clamp(0, 1)" in text.partition("fix:")[2]
