"""The line of the program that a call is told to come from, forward and backward, in and around the runtime."""

import inspect
import sys

import torch

from autopar.runtime import Axis, all_sum, batch_norm, copy, gather, reduce_scatter
from autopar.runtime.diagnostics.call_site import here
from autopar.runtime.primitives.autograd import apply


class Spy:
    """A communicator of two ranks that notes from where it is called."""

    rank, size, seconds = 0, 2, 0.0

    def __init__(self):
        self.seen = []

    def __getattr__(self, name):
        def call(*tensors):
            self.seen.append(here(sys._getframe(1)))
            if name == "all_gather":
                for out in tensors[1]:
                    out.copy_(tensors[0].reshape(out.shape))
            if name == "reduce_scatter":
                tensors[1].copy_(tensors[0][0])

        return call


def sites_of(function):
    """The sites of the calls that `function(axis, x)` makes, and those of its backward pass."""
    spy = Spy()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    y = function(Axis("model", spy), x)
    forward, spy.seen = spy.seen, []
    y.sum().backward()
    return forward, spy.seen


def first_line(function):
    return f"diagnostics/test_call_site.py:{inspect.getsourcelines(function)[1] + 1}"


def test_a_primitive_is_named_by_the_line_that_calls_it():
    def program(axis, x):
        return all_sum(x, axis)

    (site,), backward = sites_of(program)
    assert (site.what, site.where, site.source) == ("all_sum", first_line(program), "return all_sum(x, axis)")
    assert not backward


def test_an_adjoint_is_named_by_the_line_of_its_forward():
    def program(axis, x):
        return copy(x, axis)

    forward, (site,) = sites_of(program)
    assert not forward
    assert str(site) == f"adjoint of copy at {first_line(program)}"


def test_each_call_has_its_own_adjoint():
    def program(axis, x):
        a = reduce_scatter(x, 0, axis)
        return gather(a, 0, axis, 4) + copy(x, axis)

    forward, backward = sites_of(program)
    assert [site.what for site in forward] == ["reduce_scatter", "gather"]
    assert [site.what for site in backward] == ["adjoint of copy", "adjoint of reduce_scatter"]
    assert backward[1].where == forward[0].where


def test_what_the_runtime_composes_is_named_as_the_program_calls_it():
    def program(axis, x):
        return batch_norm(x, None, None, None, None, over=(axis,))

    forward, backward = sites_of(program)
    assert {site.what for site in forward} == {"batch_norm"}
    assert [str(site) for site in backward] == [f"adjoint of batch_norm at {first_line(program)}"]


def test_a_place_is_one_object():
    def program(axis, x):
        for _ in range(3):
            x = all_sum(x, axis)
        return x

    forward, _ = sites_of(program)
    assert len(forward) == 3
    assert len({id(site) for site in forward}) == 1


def test_a_function_without_a_gradient_has_no_context():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

    assert apply(Twice, torch.ones(2, dtype=torch.int64)).tolist() == [2, 2]
