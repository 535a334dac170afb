"""Under `ProgramRandom` torch's random operators draw the numbers of a program."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopar.errors import ConfigError
from autopar.runtime import (
    alpha_dropout,
    attention,
    bernoulli,
    drawing,
    dropout,
    exponential_like,
    feature_dropout,
    rand,
    randint,
    randn,
)
from autopar.runtime.functional.model_random import ProgramRandom

X = torch.randn(2, 4, 6, dtype=torch.float64)
IMAGES = torch.randn(2, 4, 3, 3, dtype=torch.float64)
PAIRS = {
    "dropout": (lambda: F.dropout(X, 0.3), lambda: dropout(X, 0.3)),
    "module": (lambda: nn.Dropout(0.3)(X), lambda: dropout(X, 0.3)),
    "in place": (lambda: F.dropout(X.clone(), 0.3, inplace=True), lambda: dropout(X, 0.3)),
    "channels": (lambda: F.dropout2d(IMAGES, 0.3), lambda: feature_dropout(IMAGES, 0.3)),
    "alpha": (lambda: F.alpha_dropout(X, 0.3, True), lambda: alpha_dropout(X, 0.3)),
    "native": (lambda: torch.native_dropout(X, 0.3, True)[0], lambda: dropout(X, 0.3)),
    "attention": (
        lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.4, is_causal=True),
        lambda: attention(X, X, X, dropout_p=0.4, is_causal=True),
    ),
    "rand": (lambda: torch.rand(3, 4), lambda: rand((3, 4))),
    "rand of a dtype": (
        lambda: torch.rand(3, dtype=torch.float64),
        lambda: rand((3,), dtype=torch.float64),
    ),
    "like": (lambda: torch.randn_like(X), lambda: randn(X.shape, dtype=X.dtype)),
    "bernoulli": (lambda: torch.empty(5).bernoulli_(0.3), lambda: bernoulli(torch.empty(5), 0.3)),
    "uniform": (lambda: torch.empty(5).uniform_(-1, 1), lambda: rand((5,)) * 2 - 1),
    "integers": (lambda: torch.randint(3, 9, (4, 5)), lambda: randint(3, 9, (4, 5))),
    "normal": (lambda: torch.empty(5).normal_(1, 3), lambda: randn((5,)) * 3 + 1),
    "exponential": (lambda: X.clone().exponential_(2.5), lambda: exponential_like(X, 2.5)),
    "several": (lambda: F.dropout(F.dropout(X, 0.2), 0.5), lambda: dropout(dropout(X, 0.2), 0.5)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_numbers_are_the_program_s(name):
    torch_s, ours = PAIRS[name]
    with drawing(7, 3) as one, ProgramRandom():
        expected = torch_s()
    with drawing(7, 3) as other:
        found = ours()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert one.drawn == other.drawn


def test_gradients_flow_through():
    x = X.clone().requires_grad_()
    with drawing(0, 0), ProgramRandom():
        y = F.dropout(x, 0.5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert set(gradient.unique().tolist()) == {0.0, 2.0}


def test_what_has_no_counterpart_is_refused():
    with pytest.raises(ConfigError, match="randperm"), drawing(0, 0), ProgramRandom():
        torch.randperm(5)


def test_what_could_draw_but_does_not_passes():
    with drawing(0, 0) as draws, ProgramRandom():
        F.dropout(X, 0.5, training=False)
        F.rrelu(X)
    assert draws.drawn == []
