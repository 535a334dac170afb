"""Models that change gradients by `torch.autograd.Function`s of their own: each must train as torch trains it."""

import torch
from other_functions import Clamped
from small_models import normal
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

SCALED = {"kind": "scaled", "by": (1, 2.5), "also": None}


class Straight(Function):
    """The straight-through estimator."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Reverse(Function):
    """Gradient reversal with a factor, in the newer style."""

    @staticmethod
    def forward(x, factor=0.5):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return -ctx.factor * grad, None


class Same(Function):
    """Returns its argument itself."""

    @staticmethod
    def forward(ctx, x, factor, mode, dims):
        ctx.factor, ctx.mode, ctx.dims = factor, mode, dims
        return x

    @staticmethod
    def backward(ctx, grad):
        assert ctx.mode in ("scaled", SCALED)
        assert ctx.dims == (0, 1)
        return 3 * grad if ctx.factor is None else ctx.factor * grad, None, None, None


class Clipped(Function):
    """A backward that is not linear: the whole gradient is scaled to a norm."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / grad.norm()


class Signed(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, grad):
        return grad.sign()


class Swish(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.sigmoid()
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y * (1 + 2 * x * (1 - y))  # not the derivative


class Matmul(Function):
    """Two operands, with gradients of its own for both; asks which are wanted."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        gx = grad @ w.sign() if ctx.needs_input_grad[0] else None
        gw = (grad.t() @ x).clamp(-0.01, 0.01) if ctx.needs_input_grad[1] else None
        return gx, gw


class Split(Function):
    """Two results, of which one has no gradient, and an operand that gets none."""

    @staticmethod
    def forward(ctx, x, mask):
        ctx.save_for_backward(mask)
        index = (x * mask).abs() > 0.5
        ctx.mark_non_differentiable(index)
        return x * mask, index

    @staticmethod
    def backward(ctx, grad, _):
        (mask,) = ctx.saved_tensors
        return grad * mask * 2, None


class Whole(Function):
    """Several results that are all differentiable, and a sum over all rows."""

    @staticmethod
    def forward(ctx, x, y):
        return x + y.sum(0), y.mean(0, keepdim=True)

    @staticmethod
    def backward(ctx, a, b):
        return 2 * a, (a.sum(0) + b).expand_as(a)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.change(self.a(x)).square().mean()


straight = Straight.apply


class StraightThrough(Net):
    def change(self, h):
        return self.b(straight(3 * h)) * straight(h * 2).sigmoid()


class Reversal(Net):
    def change(self, h):
        return Reverse.apply(self.b(Reverse.apply(h)), 0.25)


class Literals(Net):
    def change(self, h):
        return Same.apply(self.b(Same.apply(h, None, SCALED, (0, 1))), 2, "scaled", (0, 1))


class NotLinear(Net):
    def change(self, h):
        return self.b(Clipped.apply(h) + Signed.apply(h))


class NotLinearOfParameter(Net):
    """The gradient of a parameter, which ranks hold as addends, is changed."""

    def change(self, h):
        return nn.functional.linear(h, Clipped.apply(self.b.weight), Signed.apply(self.b.bias))


class Wrong(Net):
    def change(self, h):
        return Swish.apply(self.b(Swish.apply(h)))


class TwoOperands(Net):
    def change(self, h):
        return Matmul.apply(h, self.b.weight) + Matmul.apply(h.detach(), self.b.weight)


class TwoResults(Net):
    def change(self, h):
        y, index = Split.apply(h, (self.b.weight > 0).to(h.dtype)[:1])
        return self.b(y) * index


class AllRows(Net):
    def change(self, h):
        y, z = Whole.apply(h, self.b(h).tanh())
        return y * z


class Elsewhere(Net):
    def change(self, h):
        return Clamped.apply(self.b(h), 0.001)


class Checkpointed(Net):
    def change(self, h):
        h = checkpoint(lambda t: straight(3 * self.b(t)), h, use_reentrant=False)
        return checkpoint(lambda t: self.b(Signed.apply(t)), h, use_reentrant=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return x + Reverse.apply(torch.tanh(self.fc(x)), 0.7)


class Blocks(Net):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def change(self, h):
        for layer in self.layers:
            h = layer(h)
        return self.b(h)


class Nested(Function):
    @staticmethod
    def forward(ctx, x):
        return Straight.apply(x) * 0.5 + x

    @staticmethod
    def backward(ctx, grad):
        return Signed.apply(grad) + grad


class InsideAnother(Net):
    def change(self, h):
        return self.b(Nested.apply(h))


class UnderNoGrad(Net):
    def change(self, h):
        with torch.no_grad():
            scale = straight(h.abs() * 4)
        return self.b(h) * scale


class Changed(Net):
    """A result of a function that is changed in place."""

    def change(self, h):
        y = Swish.apply(self.b(h))
        y.mul_(2)
        return y


class Holder(nn.Module):
    class Inner(Function):
        @staticmethod
        def forward(ctx, x):
            return x.exp()

        @staticmethod
        def backward(ctx, grad):
            return grad * 0.1


class OfClass(Net):
    def change(self, h):
        return self.b(Holder.Inner.apply(h))


class Frozen(Net):
    """Gradients that stop at a function: the parameters before it have none."""

    def change(self, h):
        y, _ = Split.apply(h.detach(), h)
        return self.b(y)


RIGHT = {
    kind.__name__: kind
    for kind in (
        StraightThrough,
        Reversal,
        Literals,
        NotLinear,
        NotLinearOfParameter,
        Wrong,
        TwoOperands,
        TwoResults,
        AllRows,
        Elsewhere,
        Checkpointed,
        Blocks,
        InsideAnother,
        UnderNoGrad,
        Changed,
        OfClass,
        Frozen,
    )
}


def inputs():
    return {"x": normal(8, 6)}
