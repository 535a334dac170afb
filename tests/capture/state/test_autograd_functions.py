"""Functions with a backward of their own: one call each, right under any plan, or refused by name."""

import functools
from unittest import mock

import own_backward
import pytest
import torch
from capture_refused import Net, line_of, refused
from compiling import SLOW, drawn
from shared_captures import these_rows
from torch import nn
from torch.autograd import Function
from trained import assert_trains_the_same

import autopar
from autopar.capture import capture
from autopar.cli.commands.explain import records
from autopar.errors import ConfigError


class Every(nn.Module):
    """All models of `own_backward` beside each other."""

    def __init__(self, *names):
        super().__init__()
        self.parts = nn.ModuleDict({name: own_backward.RIGHT[name]() for name in names or own_backward.RIGHT})

    def forward(self, x):
        return sum(part(x) for part in self.parts.values())


@functools.cache
def every():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = Every(), own_backward.inputs()
    with these_rows():
        return model, inputs, autopar.compile(model, inputs, grid="2", machine=SLOW)


def test_a_function_is_one_call_by_its_name():
    source = every()[2].source
    assert 'Straight = function("own_backward", "Straight")' in source
    assert 'Inner = function("own_backward", "Holder.Inner")' in source
    assert "Straight.apply(" in source
    assert '"scaled", (0, 1))' in source
    assert "Same.apply(" in source
    assert str(own_backward.SCALED) in source


def test_functions_take_any_number_of_rows():
    """An argument given back, with plain values beside it; an operand without rows; two results, one of them of one row."""
    model = Every("Literals", "TwoOperands", "TwoResults", "AllRows")
    assert capture(model, own_backward.inputs(), name="every").batch.fixed == ""


def test_no_record_is_printed_that_cannot_be_registered():
    one = every()[2]
    calls = [node for node in one.graph.nodes if "Straight" in node.target]
    with pytest.raises(
        ConfigError, match=r"no record can be registered\n.*\n  - Straight of own_backward\n  fix: make it an operator"
    ):
        records(one, "straight", calls)


@pytest.mark.parametrize(("grid", "seed"), [("2", None), ("2x2", 3)])
def test_every_function_under_drawn_plans(grid, seed):
    model, inputs, one = every()
    if seed is not None:
        with mock.patch("autopar.planning.planner.solve", lambda problem, **_: drawn(seed)(problem)):
            one = one.replan(grid=grid)
    assert_trains_the_same(one, model, inputs, steps=1)


def scaled(x):
    class Local(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Local.apply(x)


class Again(Function):
    """A checkpoint written by hand, as public models have it."""

    @staticmethod
    def forward(ctx, run, x):
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, grad):
        return None, grad


class Dirty(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class Noise(Function):
    @staticmethod
    def forward(ctx, x):
        return x + torch.rand_like(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class NoisyBack(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad + torch.randn_like(grad)


class Tuples(Function):
    @staticmethod
    def forward(ctx, pair):
        return pair[0] + pair[1]

    @staticmethod
    def backward(ctx, grad):
        return None


class Nothing(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1, None

    @staticmethod
    def backward(ctx, grad, _):
        return grad


class InFunction(Net):
    def forward(self, x):
        return scaled(self.fc(x)).sum()


class TakesModule(Net):
    def forward(self, x):
        return Again.apply(self.fc, x).sum()


class ChangesArgument(Net):
    def forward(self, x):
        return Dirty.apply(self.fc(x)).sum()


class Draws(Net):
    def forward(self, x):
        return Noise.apply(self.fc(x)).sum()


class DrawsBack(Net):
    def forward(self, x):
        return NoisyBack.apply(self.fc(x)).sum()


class TakesPair(Net):
    def forward(self, x):
        return Tuples.apply((self.fc(x), x)).sum()


class ReturnsNothing(Net):
    def forward(self, x):
        return Nothing.apply(self.fc(x))[0].sum()


class Differentiated(Net):
    def forward(self, x):
        h = self.fc(x)
        (g,) = torch.autograd.grad(own_backward.Swish.apply(h).sum(), h, create_graph=True)
        return g.square().sum()


@pytest.mark.parametrize(
    ("model", "code", "fix"),
    [
        (InFunction, "", "at the top of a file"),
        (TakesModule, "Again.apply(self.fc, x)", "call that part itself"),
        (ChangesArgument, "Dirty.apply(", "return a new tensor"),
        (Draws, "Noise.apply(", "draw in forward"),
        (DrawsBack, "NoisyBack.apply(", "draw in forward"),
        (TakesPair, "Tuples.apply(", "one by one"),
        (ReturnsNothing, "Nothing.apply(", "tensors only"),
        (Differentiated, "torch.autograd.grad(", ""),
    ],
)
def test_what_cannot_be_kept_is_refused(model, code, fix):
    text = refused(model)
    place = line_of(model, code) if code else line_of(scaled, "return Local.apply(x)")
    assert text.startswith(place.partition(": `")[0]), text
    assert fix in text.partition("fix:")[2], text
