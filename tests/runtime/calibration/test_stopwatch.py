"""Laps begin and end where they should; nothing here looks at how long they are."""

import torch

from autopar.runtime.calibration.stopwatch import Watch, begin, end


class Noted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, told):
        ctx.told = told
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        ctx.told()
        return 2 * grad, None


def test_a_lap_of_backward_is_that_of_the_function_alone():
    seen = []
    watch = Watch(64, lambda: seen.append(("ready", len(watch.laps))))

    def tell(name):
        return lambda: seen.append((name, len(watch.laps)))

    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    before = Noted.apply(x, tell("before"))
    a, b = end(watch, before, y)
    (z,) = begin(watch, Noted.apply(a * b, tell("inside")))
    Noted.apply(z, tell("behind")).sum().backward()
    assert seen == [("behind", 0), ("ready", 0), ("inside", 0), ("before", 1)]
    assert x.grad.tolist() == [8.0] * 3
    assert y.grad.tolist() == [8.0] * 3
    assert len(watch.taken()) == 1
    assert watch.taken() == []


def test_one_lap_ends_where_the_next_begins():
    watch = Watch(0)
    x = torch.ones(2, requires_grad=True)
    roots = [begin(watch, scale * x)[0] for scale in (1.0, 2.0, 3.0)]
    torch.autograd.grad(roots, x, [torch.ones(2)] * 3)
    assert len(watch.laps) == 2
    watch.stop()
    assert len(watch.laps) == 3
    watch.stop()
    assert len(watch.laps) == 3


def test_operands_are_written_and_stay_what_they_are():
    watch = Watch(4096)
    x = torch.arange(4.0)
    version = x._version
    watch.start([x])
    watch.stop()
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert x._version > version
    assert len(watch.laps) == 1
