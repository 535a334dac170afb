"""Entrances and exits of segments: gradients as autograd's, and nothing held but what calls keep."""

import gc
import weakref

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.runtime.pipeline.segment_ends import Entrance, Exit, roots_of


def segment(x, y, weight):
    joined = torch.cat([x * weight, x + y], 1)
    return joined.relu(), x.sin().sum(0), joined[:, :2]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 7), st.integers(1, 3))
def test_gradients_are_those_of_leaves_and_roots(chosen, rows):
    torch.manual_seed(chosen)
    x, y, weight = (torch.randn(rows, 4, dtype=torch.float64) for _ in range(3))
    seeds = [torch.randn(rows, 8).double(), torch.randn(4).double(), torch.randn(rows, 2).double()]
    use = [i for i in range(3) if chosen >> i & 1]
    leaves = [one.clone().requires_grad_() for one in (x, y, weight)]
    results = segment(*leaves)
    entrances, parameter = (Entrance(x), Entrance(y)), weight.clone().requires_grad_()
    exits = [Exit.of(one) for one in segment(entrances[0].tensor(x), entrances[1].tensor(y), parameter)]
    for i in use:
        exits[i].place.append(seeds[i])
    if use:
        torch.autograd.backward([results[i] for i in use], [seeds[i] for i in use])
        torch.autograd.backward(*roots_of([exits[i] for i in use]))
    for entrance, leaf in zip(entrances, leaves[:2], strict=True):
        expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(entrance.gradient(), expected, rtol=0, atol=0)
    torch.testing.assert_close(parameter.grad, leaves[2].grad, rtol=0, atol=0)


def gone(tensor):
    """What says whether the memory of a tensor has been given back."""
    return weakref.ref(tensor.untyped_storage())


def test_what_no_call_keeps_is_let_go():
    x, weight = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    entrance = Entrance(x)
    kept = (entrance.tensor(x) * weight).exp()  # which exp keeps, and the product x
    result = kept + 1
    ends = Exit.of(result)
    held, freed = gone(kept), gone(result)
    del kept, result
    gc.collect()
    assert held() is not None
    assert freed() is None
    seed = torch.ones(3, 4)
    given_back = gone(seed)
    ends.place.append(seed)
    del seed
    torch.autograd.backward(*roots_of([ends]))
    assert held() is None
    assert given_back() is None
    torch.testing.assert_close(entrance.gradient(), weight.detach() * (x * weight.detach()).exp())


def test_a_part_of_a_larger_gradient_is_copied():
    x, y = torch.randn(2, 3), torch.randn(2, 5)
    entrances = Entrance(x), Entrance(y)
    ends = Exit.of(torch.cat([entrances[0].tensor(x), entrances[1].tensor(y)], 1))
    ends.place.append(torch.ones(2, 8))
    torch.autograd.backward(*roots_of([ends]))
    assert [one.gradient().untyped_storage().nbytes() for one in entrances] == [4 * 6, 4 * 10]
