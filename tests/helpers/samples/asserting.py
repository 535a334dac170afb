"""A model that looks at its numbers in asserts, and one that looks elsewhere. In a file of their own: pytest rewrites asserts."""

import torch
from torch import nn


def finite(h):
    assert not torch.isnan(h).any(), "NaN"
    return h


class Checked(nn.Module):
    """Looks at numbers in asserts of several functions, one of them a closure, and elsewhere only at shapes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)

    def small(self, h):
        return h.abs().max().item() < 1e6

    def forward(self, x):
        h = finite(self.a(x))
        assert h.abs().max().item() <= 1e6
        assert h.isnan().sum() == 0, (
            "a message on a line of its own, longer than the rest of the check, so that it stays on lines of its own here"
        )
        assert h.shape[-1] == 8
        assert self.small(h)
        low = -1e6

        def bounded(y):
            assert y.min() > low
            return y * 2

        return bounded(self.b(h)).square().mean()


class Raises(Checked):
    def forward(self, x):
        if self.a(x).max() > 1e6:
            raise ValueError("too large")
        return self.a(x).square().mean()
