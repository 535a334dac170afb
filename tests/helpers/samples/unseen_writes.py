"""Models that write to tensors where autograd does not record it: values change, and gradients pass as if nothing had.

A line marked ``# refused`` is where a model must be refused; the others train as torch trains them.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from unseen import Net, forms_of


class WriteNoGrad(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y.mul_(0.5)
        return y * h


class WriteIndexNoGrad(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y[:, 0] = 0
            y[:, 1:3] += h[:, 1:3]
        return y * h


class ClampNoGrad(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y.clamp_(0, 1)
        return y + h


class WriteData(Net):
    def change(self, h):
        y = self.b(h) + 1
        y.data.mul_(0.5)
        return y + h


class WriteDetached(Net):
    def change(self, h):
        y = self.b(h) + 1
        y.detach().mul_(0.5)
        return y + h


class WriteViewNoGrad(Net):
    def change(self, h):
        y = self.b(h) + 1
        v = y.view(-1)
        with torch.no_grad():
            v.mul_(0.5)
        return y + v.view(8, 8)


class SwapData(Net):
    def change(self, h):
        y = self.b(h)
        y.data = y.data * 2
        return y


class CopyNoGrad(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y.copy_(h)
        return y + h


class FreshNoGrad(Net):
    """A tensor without a gradient is written to: nothing special."""

    def change(self, h):
        y = h.new_zeros(8)
        with torch.no_grad():
            y.add_(self.b.bias)
            y[0] = 1
        return self.b(h) * y


class WriteAfterUse(Net):
    def change(self, h):
        y = self.b(h) + 1
        z = y + h
        with torch.no_grad():
            y.zero_()
        return z + y


class BufferNoGrad(Net):
    def change(self, h):
        y = self.b(h)
        with torch.no_grad():
            self.kept.mul_(0.9).add_(y.mean(0))
        return y * self.kept


class InferenceOfParameters(Net):
    """Values that autograd need not save."""

    def change(self, h):
        with torch.inference_mode():
            shift = self.b(h).mean()
        return self.b(h) + shift


class WriteDetachedElsewhere(Net):
    def forward(self, x):
        y = self.a(x) + 1
        d = y.detach()
        with torch.no_grad():
            d.mul_(0.5)
        return (y + self.b(y)).mean()


class WriteOwnDetached(Net):
    """A detached tensor is written to, and what it was taken of is not read again."""

    def change(self, h):
        d = (self.b(h) + 1).detach()
        with torch.no_grad():
            d.mul_(0.5)
        return d * h


class WriteSeveral(Net):
    def forward(self, x):
        y, z = self.a(x) + 1, self.a(x) + 2
        with torch.no_grad():
            torch._foreach_mul_([y, z], 0.5)
        return (y + z + self.a(x)).square().mean()


class WriteOut(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            torch.mul(h, 0.5, out=y)
        return y + h


class WriteTwice(Net):
    def change(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y.mul_(0.5)
            y.add_(h)
        with torch.no_grad():
            y[0].zero_()
        y = y * 2
        y.data[1] = 0
        return y + h


class InitNoGrad(Net):
    """The values of a weight are set on the way."""

    def change(self, h):
        y = self.b(h)
        with torch.no_grad():
            nn.init.zeros_(y)
        return y + h


class WriteInCheckpoint(Net):
    def inner(self, h):
        y = self.b(h) + 1
        with torch.no_grad():
            y.mul_(0.5)
        return y * h

    def change(self, h):
        return checkpoint(self.inner, h, use_reentrant=False) + checkpoint(self.inner, h, use_reentrant=True)


FORMS = forms_of(globals())
