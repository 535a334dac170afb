"""Buffers that forward writes to, in every way in which models do: after three steps they are eager's, on every grid."""

import pytest
import torch
import torch.nn.functional as F
from capture_refused import refused
from torch import nn
from trained import assert_all_train_the_same


class Net(nn.Module):
    """A Linear, a queue of 12 rows, an average, a second one, a pointer and a histogram."""

    def __init__(self, write):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.write = write
        for name, value in {
            "queue": torch.randn(12, 6),
            "average": torch.ones(6),
            "other": torch.zeros(6),
            "at": torch.zeros((), dtype=torch.int64),
            "counts": torch.zeros(8),
            "seen": torch.zeros(6, dtype=torch.bool),
        }.items():
            self.register_buffer(name, value)
        self.register_buffer("batch", torch.ones(4, 6), persistent=False)

    def forward(self, x):
        return self.write(self, self.fc(x), x)

    @property
    def rows(self):
        return (self.at + torch.arange(4)) % 12

    def move(self):
        self.at.add_(4).remainder_(12)


def queue_by_index(net, h, x):
    logits = h @ net.queue.clone().T
    net.queue[net.rows] = h.detach()
    net.move()
    return logits.logsumexp(1).mean()


def queue_without_gradients(net, h, x):
    logits = h @ net.queue.clone().T
    with torch.no_grad():
        net.queue.index_copy_(0, net.rows, h)
        net.at.copy_((net.at + 4) % 12)
    return logits.logsumexp(1).mean()


def queue_scattered(net, h, x):
    logits = h @ net.queue.clone().T
    with torch.no_grad():
        net.queue.scatter_(0, net.rows[:, None].expand(-1, 6), h)
    net.move()
    return logits.logsumexp(1).mean()


def queue_pushed(net, h, x):
    logits = h @ net.queue.T
    net.queue = torch.cat([h.detach(), net.queue[:-4]])
    return logits.logsumexp(1).mean()


def row_written_and_read(net, h, x):
    net.queue[3] = h[0].detach()
    net.queue[5:7, 2:4] += 1
    return (h @ net.queue.T).logsumexp(1).mean()


def codebook(net, h, x):
    chosen = F.one_hot((h.detach()[:, None] - net.queue).square().sum(-1).argmin(1), 12).to(h.dtype)
    code = chosen @ net.queue
    net.queue.data.mul_(0.9).add_(chosen.T @ h.detach(), alpha=0.1)
    net.queue.data = net.queue / (0.9 + 0.1 * chosen.sum(0))[:, None]
    return (h + (code - h).detach() - x).square().mean() + (h - code.detach()).square().mean()


def histograms(net, h, x):
    cell = (h.detach()[:, 0] * 2).round().long().clamp(-4, 3) + 4
    net.counts.index_add_(0, cell, torch.ones_like(h[:, 0]))
    net.counts.scatter_add_(0, cell, x[:, 1])
    net.counts[cell] += 1
    net.counts += torch.histc(x, 8, -2, 2)
    return (h.square().sum(1) * net.counts[cell]).mean()


def masks(net, h, x):
    mask = h.detach().mean(0) > 0
    net.seen |= mask
    net.average[mask] = 1.5
    net.average.masked_fill_(~mask, 0.25)
    return (h * net.average * net.seen).square().mean()


def averages(net, h, x):
    with torch.no_grad():
        net.average.lerp_(h.mean(0), 0.1)
        net.other = 0.9 * net.other + h.mean(0)
    return (h * net.average + net.other * h).square().mean()


def swapped(net, h, x):
    net.average, net.other = net.other + h.detach().mean(0), net.average
    return (h * net.average + net.other).square().mean()


def with_a_gradient(net, h, x):
    net.average = 0.9 * net.average.detach() + 0.1 * h.mean(0)
    return (h * net.average + h).square().mean()


def unread_with_a_gradient(net, h, x):
    net.average = 0.9 * net.average + 0.1 * h.mean(0)
    return h.square().mean()


def inputs_kept(net, h, x):
    h = h + net.batch
    net.batch.copy_(x)
    net.at += 1
    return h.square().mean() * net.at


def views_of_the_old(net, h, x):
    old, kept = net.queue.clone().T, net.average * 1
    net.queue.copy_(net.queue.flip(0) * 0.5)
    net.average.copy_(net.queue[2])
    return (h @ old).square().mean() + (h * net.queue[1] * kept).sum()


def statistics_copied(net, h, x):
    """Normalisations change the running statistics that they are given, here copies that are read afterwards."""
    h, mean, held = h[..., None] * torch.arange(1.0, 4.0), net.average.clone(), net.other.clone().view(6)
    y = F.batch_norm(h, mean, net.average.abs().clone(), training=True)
    z = F.instance_norm(h, held, net.average.clone(), use_input_stats=True)
    return (y.pow(3) + z.pow(3)).mean() + (h * (mean + held)[:, None]).mean()


FORMS = [
    queue_by_index, queue_without_gradients, queue_scattered, queue_pushed, row_written_and_read, codebook, histograms, masks,
    averages, swapped, with_a_gradient, unread_with_a_gradient, inputs_kept, views_of_the_old,
    statistics_copied,
]  # fmt: skip


def test_buffers_are_eagers_after_three_steps():
    assert_all_train_the_same(lambda: {write.__name__: Net(write) for write in FORMS})


def chained(net, h, x):
    net.average = 0.9 * net.average + 0.1 * h.mean(0)
    return (h * net.average).square().mean()


def made_up(net, h, x):
    net.average = h.detach()
    return h.square().mean()


def dtype_changed(net, h, x):
    net.average.data = h.detach().mean(0).float()
    return h.square().mean()


def parameter_replaced(net, h, x):
    net.fc.weight = nn.Parameter(net.fc.weight * 0.5)
    return h.square().mean()


@pytest.mark.parametrize(
    ("write", "given", "fix"),
    [
        (chained, "a buffer's new value carries a gradient, and the next step's loss reads it", "new.detach()"),
        (made_up, "forward replaces average of float64 (6,) by one of float64 (4, 6)", "copy_"),
        (dtype_changed, "a tensor of float64 (6,) is given data of float32 (6,)", "make a new tensor"),
        (parameter_replaced, "in the place of the parameter fc.weight", "torch.no_grad()"),
    ],
)
def test_what_no_buffer_can_take_is_refused(write, given, fix):
    text = refused(lambda: Net(write).double(), {"x": torch.ones(4, 6, dtype=torch.float64)})
    assert given in text.partition("rule:")[0]
    assert fix in text.partition("fix:")[2]
